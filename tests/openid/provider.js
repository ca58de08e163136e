// A real OpenID provider on loopback: https://github.com/panva/node-oidc-provider
//
//   node provider.js ['{"port": 0, "certificate": "FILE", "key": "FILE"}']
//
// prints {"issuer": "..."} once it listens, and ends with its standard input. Without a certificate it
// speaks plain HTTP. Orders, one JSON object a line, each answered by one line:
//
//   {"account": NAME, ...}   makes or changes an account; what is left out stays as it was:
//     "password": TEXT         NAME-password at first
//     "claims": {...}          merged into its claims; null takes one away
//     "amr": [...], "acr": TEXT, "authenticated": SECONDS AGO
//   {"rotate": true}         signs with new keys from now on, and publishes no others
//   {"algorithm": NAME}      signs ID tokens so from now on: RS256, PS256, ES256 or EdDSA
//
// The clients: `hallpass`, public, and `hallpass-confidential` with the secret below.

import { generateKeyPairSync, randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import http from 'node:http';
import https from 'node:https';

import Provider from 'oidc-provider';

import { obey, tell } from './orders.js';

// It notes on standard output what is not meant for production.
console.info = console.error;

const SECRET = 'the-secret-of-the-confidential-client';
const DEVICE_CODE = 'urn:ietf:params:oauth:grant-type:device_code';

const settings = JSON.parse(process.argv[2] ?? '{}');

/** By name. */
const accounts = new Map();
let algorithm = 'RS256';
let keys = newKeys();
let issuer;
/** The provider of now: other keys need another one, which keeps all else in the same memory. */
let provider;
let answer;

for (const name of ['alice', 'bob']) {
  change({ account: name, claims: { groups: ['on-call'] } });
}

const server = settings.certificate
  ? https.createServer({
      cert: readFileSync(settings.certificate),
      key: readFileSync(settings.key),
    })
  : http.createServer();
server.on('request', (request, response) => {
  serve(request, response).catch((error) => {
    console.error(error);
    if (!response.headersSent) response.statusCode = 500;
    response.end('a fault of the test provider');
  });
});
server.listen(settings.port ?? 0, '127.0.0.1', () => {
  const { port } = server.address();
  issuer = settings.certificate ? `https://localhost:${port}` : `http://127.0.0.1:${port}`;
  renew();
  tell({ issuer });
  obey((order) => {
    if (order.account) {
      change(order);
    } else if (order.rotate) {
      keys = newKeys();
      renew();
    } else if (order.algorithm) {
      algorithm = order.algorithm;
      renew();
    } else {
      throw new Error(`no such order: ${JSON.stringify(order)}`);
    }
  });
});

function change({ account: name, claims, ...rest }) {
  const account = accounts.get(name) ?? {
    name,
    password: `${name}-password`,
    claims: { sub: `subject-of-${name}`, preferred_username: name },
    amr: ['pwd'],
    authenticated: 0,
  };
  Object.assign(account, rest);
  for (const [claim, value] of Object.entries(claims ?? {})) {
    if (value === null) delete account.claims[claim];
    else account.claims[claim] = value;
  }
  accounts.set(name, account);
}

function newKeys() {
  const make = (kind, options, alg) => ({
    ...generateKeyPairSync(kind, options).privateKey.export({ format: 'jwk' }),
    use: 'sig',
    alg,
    kid: randomBytes(9).toString('base64url'),
  });
  return [
    make('rsa', { modulusLength: 2048 }, 'RS256'),
    make('rsa', { modulusLength: 2048 }, 'PS256'),
    make('ec', { namedCurve: 'P-256' }, 'ES256'),
    make('ed25519', {}, 'EdDSA'),
  ];
}

function client(client_id, authentication) {
  return {
    client_id,
    application_type: 'native',
    grant_types: ['authorization_code', DEVICE_CODE],
    response_types: ['code'],
    // The port of a loopback address is not looked at, as RFC 8252 (section 7.3) demands.
    redirect_uris: ['http://127.0.0.1/callback'],
    id_token_signed_response_alg: algorithm,
    ...authentication,
  };
}

function renew() {
  provider = new Provider(issuer, {
    clients: [
      client('hallpass', { token_endpoint_auth_method: 'none' }),
      client('hallpass-confidential', {
        client_secret: SECRET,
        token_endpoint_auth_method: 'client_secret_basic',
      }),
    ],
    jwks: { keys },
    cookies: { keys: ['not a secret: it lives as long as a test'] },
    enabledJWA: {
      idTokenSigningAlgValues: ['RS256', 'PS256', 'ES256', 'EdDSA'],
    },
    scopes: ['openid', 'profile', 'groups'],
    claims: {
      openid: ['sub', 'acr', 'amr', 'auth_time'],
      profile: ['preferred_username', 'name', 'groups', 'roles', 'email'],
      groups: ['groups'],
    },
    // As the large providers do: everything that was asked for is in the ID token.
    conformIdTokenClaims: false,
    pkce: { required: () => true },
    features: {
      devInteractions: { enabled: false },
      deviceFlow: {
        enabled: true,
        userCodeInputSource: (ctx, form, out, error) => {
          if (error?.name === 'AbortedError') {
            show(ctx, '<p>You said no.</p>');
            return;
          }
          const wrong = error ? '<p>That code is not right.</p>' : '';
          show(ctx, `${wrong}${form}<button form="op.deviceInputForm">Continue</button>`);
        },
        userCodeConfirmSource: (ctx, form, of, info, code) => {
          show(
            ctx,
            `<p>Is this the code on your device? ${code}</p>${form}
            <button form="op.deviceConfirmForm">Confirm</button>
            <button form="op.deviceConfirmForm" name="abort" value="yes">Abort</button>`,
          );
        },
        successSource: (ctx) => show(ctx, '<p>Your device is signed in.</p>'),
      },
    },
    interactions: { url: (ctx, { uid }) => `/interaction/${uid}` },
    ttl: {
      AccessToken: 600,
      AuthorizationCode: 60,
      DeviceCode: 300,
      Grant: 600,
      IdToken: 300,
      Interaction: 300,
      Session: 600,
    },
    findAccount: (ctx, sub) => {
      const account = [...accounts.values()].find(({ claims }) => claims.sub === sub);
      return account && { accountId: sub, claims: () => account.claims };
    },
    renderError: (ctx, out) => show(ctx, `<p>${out.error}: ${out.error_description}</p>`),
  });
  answer = provider.callback();
}

async function serve(request, response) {
  if (!request.url.startsWith('/interaction/')) {
    answer(request, response);
    return;
  }
  const { prompt, session, params, grantId } = await provider.interactionDetails(request, response);
  const form = new URLSearchParams(request.method === 'POST' ? await body(request) : '');
  const finish = (result, merge) =>
    provider.interactionFinished(request, response, result, { mergeWithLastSubmission: merge });

  if (form.has('deny')) {
    await finish({ error: 'access_denied', error_description: 'the person said no' }, false);
  } else if (prompt.name === 'login') {
    const account = accounts.get(form.get('login'));
    if (account && form.get('password') === account.password) {
      const login = {
        accountId: account.claims.sub,
        amr: account.amr,
        acr: account.acr,
        ts: Math.floor(Date.now() / 1000) - account.authenticated,
      };
      await finish({ login }, false);
      return;
    }
    html(
      response,
      `${form.has('login') ? '<p>Wrong name or password.</p>' : ''}
      <form method="post">
        <input name="login"><input name="password" type="password">
        <button name="sign-in">Sign in</button>
      </form>`,
    );
  } else if (form.has('allow')) {
    const grant = grantId
      ? await provider.Grant.find(grantId)
      : new provider.Grant({ accountId: session.accountId, clientId: params.client_id });
    grant.addOIDCScope((prompt.details.missingOIDCScope ?? []).join(' '));
    grant.addOIDCClaims(prompt.details.missingOIDCClaims ?? []);
    await finish({ consent: { grantId: await grant.save() } }, true);
  } else {
    html(
      response,
      `<form method="post">
        <button name="allow" value="yes">Allow</button> <button name="deny" value="yes">Deny</button>
      </form>`,
    );
  }
}

async function body(request) {
  let text = '';
  for await (const piece of request) text += piece;
  return text;
}

function page(content) {
  return `<!DOCTYPE html><meta charset="utf-8"><title>Test provider</title>${content}`;
}

function html(response, content) {
  response.setHeader('Content-Type', 'text/html; charset=utf-8');
  response.end(page(content));
}

function show(ctx, content) {
  ctx.type = 'html';
  ctx.body = page(content);
}
