// An OpenID provider that lies when it is told to: what a real one never does, however it is asked.
//
//   node liar.js ['{"port": 0}']
//
// prints {"issuer": "..."} once it listens, and ends with its standard input. It asks nobody for a
// password: its authorization endpoint redirects straight back with a code. One JSON object a line is
// an order that takes the place of the one before; {} has it tell the truth. What an order may hold:
//
//   "claims": {...}          of the ID token: put in place of the true ones; null drops one
//   "shift": SECONDS         by which its clock is off, for every time that it states
//   "algorithm": NAME        RS256 (the true one), PS256, ES256, EdDSA, HS256, or any word, such as
//                            none, for a token that nobody signed
//   "signer": NAME           published (the true one), retired (the one before the last rotation), or
//                            stranger, whom nobody knows. It signs as the one who is published
//   "secret": FORM           what HS256 is keyed with: the public key as pem, der or jwk, or
//                            {"text": TEXT}
//   "header": {...}          of the ID token, as with claims; kid is in there. "jwk": "own" stands for
//                            the public key of whoever signs, "jku": "own" for where it can be had
//   "tamper": NAME           signature (a bit of it is wrong), claims (changed after signing) or
//                            unsigned (the signature is cut off)
//   "id_token": TEXT         in the place of any token
//   "redirect": {...}        what comes back from the authorization endpoint: code, state, iss, or
//                            others; null drops one
//   "careless": true         takes a code whoever sends it: any code verifier, any redirect
//   "discovery", "jwks", "token", "device": how that endpoint answers
//       {"merge": {...}}                             its true answer, changed; null drops
//       {"status": 500, "body": TEXT, "type": TEXT, "headers": {...}}
//       "hang-up", "stare", "trickle", "flood"       nothing; never; a byte a second; without an end
//
// and the orders that leave the one before in force:
//
//   {"rotate": true}         signs with a new key from now on, and publishes no other
//   {"asked": true}          answered by what each endpoint was asked so far
//
// The client is `hallpass`, and any secret of its is right. A code is good as often as it is sent.

import { createHash, createHmac, generateKeyPairSync, randomBytes, sign } from 'node:crypto';
import http from 'node:http';

import { obey, tell } from './orders.js';

const CLIENT = 'hallpass';

const settings = JSON.parse(process.argv[2] ?? '{}');

let order = {};
let published = newKeys();
let retired = published;
const stranger = newKeys();
const codes = new Map();
const devices = new Map();
const asked = { discovery: [], jwks: [], stranger: [], authorize: [], token: [], device: [] };
let issuer;

const server = http.createServer((request, response) => {
  serve(request, response).catch((error) => {
    console.error(error);
    response.destroy();
  });
});
server.listen(settings.port ?? 0, '127.0.0.1', () => {
  issuer = `http://127.0.0.1:${server.address().port}`;
  tell({ issuer });
  obey((next) => {
    if (next.asked) return asked;
    if (next.rotate) {
      retired = published;
      published = newKeys();
    } else {
      order = next;
    }
  });
});

async function serve(request, response) {
  const url = new URL(request.url, issuer);
  let text = '';
  for await (const piece of request) text += piece;
  const form = Object.fromEntries(new URLSearchParams(text));
  const seen = (endpoint) =>
    asked[endpoint].push({
      ...Object.fromEntries(url.searchParams),
      ...form,
      authorization: request.headers.authorization,
    });

  switch (`${request.method} ${url.pathname}`) {
    case 'GET /.well-known/openid-configuration':
      seen('discovery');
      return answer(response, 'discovery', discovery());
    case 'GET /jwks':
      seen('jwks');
      return answer(response, 'jwks', { keys: Object.values(published).map(publicJwk) });
    case 'GET /stranger':
      seen('stranger');
      return response.end(JSON.stringify({ keys: Object.values(stranger).map(publicJwk) }));
    case 'GET /authorize':
      seen('authorize');
      return authorize(response, url.searchParams);
    case 'POST /token':
      seen('token');
      return answer(response, 'token', ...token(form, request.headers.authorization));
    case 'POST /device-authorization':
      seen('device');
      return answer(response, 'device', startDevice(form));
    case 'GET /device':
      devices.get(url.searchParams.get('user_code')).approved = true;
      return response.end('signed in');
    default:
      response.statusCode = 404;
      return response.end();
  }
}

function discovery() {
  return {
    issuer,
    authorization_endpoint: `${issuer}/authorize`,
    token_endpoint: `${issuer}/token`,
    device_authorization_endpoint: `${issuer}/device-authorization`,
    jwks_uri: `${issuer}/jwks`,
    response_types_supported: ['code'],
    grant_types_supported: [
      'authorization_code',
      'urn:ietf:params:oauth:grant-type:device_code',
    ],
    subject_types_supported: ['public'],
    id_token_signing_alg_values_supported: ['RS256', 'PS256', 'ES256', 'EdDSA'],
    token_endpoint_auth_methods_supported: ['none', 'client_secret_basic'],
    code_challenge_methods_supported: ['S256'],
    scopes_supported: ['openid', 'profile'],
    authorization_response_iss_parameter_supported: true,
  };
}

function authorize(response, parameters) {
  const code = randomBytes(16).toString('base64url');
  codes.set(code, Object.fromEntries(parameters));
  const back = new URL(parameters.get('redirect_uri'));
  const told = changed(
    { code, state: parameters.get('state'), iss: issuer },
    order.redirect,
  );
  for (const [name, value] of Object.entries(told)) back.searchParams.set(name, value);
  response.writeHead(302, { Location: back.href });
  response.end();
}

function startDevice(form) {
  const [code, typed] = [randomBytes(16).toString('base64url'), randomBytes(4).toString('hex')];
  const device = { client_id: form.client_id, approved: false };
  devices.set(code, device).set(typed, device);
  return {
    device_code: code,
    user_code: typed,
    verification_uri: `${issuer}/device`,
    verification_uri_complete: `${issuer}/device?user_code=${typed}`,
    expires_in: 300,
    interval: 1,
  };
}

/** Answer and status. */
function token(form) {
  if (form.device_code) {
    const device = devices.get(form.device_code);
    if (!device) return [{ error: 'invalid_grant' }, 400];
    if (!device.approved) return [{ error: 'authorization_pending' }, 400];
    return [tokens({})];
  }
  const begun = codes.get(form.code);
  const challenge = createHash('sha256').update(form.code_verifier ?? '').digest('base64url');
  const isTheirs =
    begun?.redirect_uri === form.redirect_uri
    && begun?.code_challenge_method === 'S256'
    && begun?.code_challenge === challenge;
  if (!begun || (!isTheirs && !order.careless)) {
    return [{ error: 'invalid_grant', error_description: 'no such code, or not yours' }, 400];
  }
  return [tokens(begun)];
}

function tokens(begun) {
  return {
    access_token: randomBytes(16).toString('base64url'),
    token_type: 'Bearer',
    expires_in: 300,
    id_token: order.id_token ?? idToken(begun),
  };
}

function idToken({ nonce, max_age: maxAge }) {
  const now = Math.floor(Date.now() / 1000) + (order.shift ?? 0);
  const claims = changed(
    {
      iss: issuer,
      sub: 'subject-of-bob',
      aud: CLIENT,
      iat: now,
      exp: now + 300,
      ...(nonce === undefined ? {} : { nonce }),
      ...(maxAge === undefined ? {} : { auth_time: now }),
      preferred_username: 'bob',
      groups: ['on-call'],
      amr: ['pwd'],
    },
    order.claims,
  );

  const algorithm = order.algorithm ?? 'RS256';
  const keys = { published, retired, stranger }[order.signer ?? 'published'];
  // The stranger takes the name of the one who is known.
  const known = order.signer === 'retired' ? retired : published;
  const header = changed(
    { alg: algorithm, typ: 'JWT', kid: (known[algorithm] ?? known.RS256).kid },
    order.header,
  );
  if (header.jwk === 'own') header.jwk = publicJwk(keys.RS256);
  if (header.jku === 'own') header.jku = `${issuer}/stranger`;
  const encode = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');
  const text = `${encode(header)}.${encode(claims)}`;
  let signature = signed(algorithm, keys, text);
  switch (order.tamper) {
    case 'signature':
      signature[signature.length >> 1] ^= 1;
      break;
    case 'claims':
      return `${encode(header)}.${encode({ ...claims, preferred_username: 'alice' })}.${
        signature.toString('base64url')}`;
    case 'unsigned':
      signature = Buffer.alloc(0);
      break;
    default:
  }
  return `${text}.${signature.toString('base64url')}`;
}

function signed(algorithm, keys, text) {
  const data = Buffer.from(text);
  const key = keys[algorithm]?.privateKey;
  switch (algorithm) {
    case 'RS256':
      return sign('sha256', data, key);
    case 'PS256':
      // RSA_PKCS1_PSS_PADDING, with a salt as long as the digest: RFC 7518, section 3.5.
      return sign('sha256', data, { key, padding: 6, saltLength: 32 });
    case 'ES256':
      return sign('sha256', data, { key, dsaEncoding: 'ieee-p1363' });
    case 'EdDSA':
      return sign(null, data, key);
    case 'HS256':
      return createHmac('sha256', secret(keys.RS256)).update(data).digest();
    default:
      return Buffer.alloc(0);
  }
}

function secret({ publicKey, ...key }) {
  switch (order.secret ?? 'pem') {
    case 'pem':
      return publicKey.export({ type: 'spki', format: 'pem' });
    case 'der':
      return publicKey.export({ type: 'spki', format: 'der' });
    case 'jwk':
      return JSON.stringify(publicJwk({ publicKey, ...key }));
    default:
      return order.secret.text;
  }
}

function newKeys() {
  const make = (alg, kind, options) => ({
    ...generateKeyPairSync(kind, options),
    alg,
    kid: `${alg}-${randomBytes(6).toString('hex')}`,
  });
  return {
    RS256: make('RS256', 'rsa', { modulusLength: 2048 }),
    PS256: make('PS256', 'rsa', { modulusLength: 2048 }),
    ES256: make('ES256', 'ec', { namedCurve: 'P-256' }),
    EdDSA: make('EdDSA', 'ed25519', {}),
  };
}

function publicJwk({ publicKey, alg, kid }) {
  return { ...publicKey.export({ format: 'jwk' }), use: 'sig', alg, kid };
}

function changed(truth, changes) {
  const all = { ...truth, ...changes };
  return Object.fromEntries(Object.entries(all).filter(([, value]) => value !== null));
}

function answer(response, endpoint, truth, status = 200) {
  const manner = order[endpoint] ?? {};
  switch (manner) {
    case 'hang-up':
      return response.destroy();
    case 'stare':
      return undefined;
    case 'trickle': {
      response.writeHead(200, { 'Content-Type': 'application/json' });
      const timer = setInterval(() => response.write(' '), 1000);
      return response.on('close', () => clearInterval(timer));
    }
    case 'flood': {
      response.writeHead(200, { 'Content-Type': 'application/json' });
      const piece = ' '.repeat(64 * 1024);
      const pour = () => {
        while (!response.destroyed && response.write(piece));
      };
      response.on('drain', pour);
      return pour();
    }
    default:
  }
  response.statusCode = manner.status ?? status;
  response.setHeader('Content-Type', manner.type ?? 'application/json');
  for (const [name, value] of Object.entries(manner.headers ?? {})) {
    response.setHeader(name, value);
  }
  return response.end(manner.body ?? JSON.stringify(changed(truth, manner.merge)));
}
