//! smallstep's `step-ca`, set up as `step ca init --ssh` sets it up, in a folder of its own.

use std::fs::{self, File};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair as CertificateKey,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
};
use ring::digest::{SHA256, digest};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use serde::Deserialize;
use serde_json::{Value, json};
use ssh_key::Certificate;
use x509_parser::pem::parse_x509_pem;

use crate::client::{Subject, nonce, now};
use crate::connection::{Connection, post};
use crate::home::{Home, write};
use crate::process::Process;
use crate::target::{Kind, Target};

/// The longest that a start may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// Who asks: the subject of each token, and what the certificates are for.
const NAME: &str = "bob.example.org";
const PRINCIPALS: [&str; 1] = ["bob"];
const PROVISIONER: &str = "bench";
/// In seconds, as `step ca token` has it.
const TOKEN_LIFE: u64 = 5 * 60;

/// A server, and the key of a provisioner that it trusts.
pub(crate) struct StepCa {
    pub(crate) process: Process,
    /// As it says itself.
    pub(crate) version: String,
    address: String,
    /// The root certificate in PEM.
    root: String,
    fingerprint: String,
    provisioner: EcdsaKeyPair,
    random: SystemRandom,
    log: PathBuf,
}

impl StepCa {
    pub(crate) fn start(program: &Path, home: &Home) -> Self {
        let folder = home.beside("step-ca");
        let authority = Authority::new();
        let random = SystemRandom::new();
        let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
        let key = EcdsaKeyPair::generate_pkcs8(algorithm, &random).expect("a key");
        let provisioner =
            EcdsaKeyPair::from_pkcs8(algorithm, key.as_ref(), &random).expect("a key");
        let address = free_address();

        let ssh_key = CertificateKey::generate_for(&PKCS_ECDSA_P256_SHA256).expect("a key");
        let configuration = configuration(&folder, &address, &provisioner).to_string();
        for (name, text) in [
            ("root.crt", &authority.root),
            ("issuing.crt", &authority.issuing),
            ("issuing.key", &authority.key),
            ("ssh.key", &ssh_key.serialize_pem()),
            ("ca.json", &configuration),
        ] {
            write(&folder.join(name), text);
        }

        let log = folder.join("log");
        let mut command = Command::new(program);
        command
            .arg(folder.join("ca.json"))
            // Its own settings, and not those of whoever runs this.
            .env("STEPPATH", &folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log).expect("a file of our own"));
        let mut step_ca = Self {
            process: Process::spawn(&mut command),
            version: String::new(),
            address,
            root: authority.root,
            fingerprint: authority.fingerprint,
            provisioner,
            random,
            log,
        };
        step_ca.wait();
        step_ca.version = step_ca.said_version();
        step_ca
    }

    fn wait(&mut self) {
        let begun = Instant::now();
        while TcpStream::connect(&self.address).is_err() {
            let runs = self.process.runs() && begun.elapsed() < PATIENCE;
            assert!(runs, "step-ca does not listen");
            thread::sleep(Duration::from_millis(20));
        }
        let health = format!("GET /health HTTP/1.1\r\nhost: {}\r\n\r\n", self.address);
        self.connect().exchange(health.as_bytes());
    }

    fn said_version(&self) -> String {
        let log = fs::read_to_string(&self.log).expect("a file of our own");
        let version = log
            .lines()
            .find_map(|line| Some(line.split_once(" Starting ")?.1.to_owned()));
        version.unwrap_or_else(|| "a step-ca that does not say which".to_owned())
    }

    /// A token for one certificate.
    fn token(&self, path: &str, mut claims: Value) -> String {
        let now = now().as_millis() / 1000;
        for (name, value) in [
            ("aud", json!(format!("https://{}{path}", self.address))),
            ("iss", json!(PROVISIONER)),
            ("sub", json!(NAME)),
            ("sha", json!(self.fingerprint)),
            ("jti", json!(nonce())),
            ("iat", json!(now)),
            ("nbf", json!(now)),
            ("exp", json!(now + TOKEN_LIFE)),
        ] {
            claims[name] = value;
        }
        let head = json!({"alg": "ES256", "kid": PROVISIONER, "typ": "JWT"});
        let [head, claims] = [head, claims].map(|part| URL_SAFE_NO_PAD.encode(part.to_string()));
        let signed = format!("{head}.{claims}");
        let signature = self.provisioner.sign(&self.random, signed.as_bytes());
        let signature = URL_SAFE_NO_PAD.encode(signature.expect("a signature"));
        format!("{signed}.{signature}")
    }
}

impl Target for StepCa {
    type Subject = Subject;
    type Request = Vec<u8>;
    type Connection = Connection;

    fn connect(&self) -> Connection {
        Connection::open(&self.address, self.root.as_bytes())
    }

    /// A name in a CSR must be in the token, too, and there must be one.
    fn subject(&self, kind: Kind) -> Subject {
        Subject::new(kind, &[NAME])
    }

    fn request(&self, subject: &Subject) -> Vec<u8> {
        let (path, body) = match subject {
            Subject::Ssh { line, .. } => {
                let path = "/1.0/ssh/sign";
                let wanted = json!({
                    "certType": "user",
                    "keyID": NAME,
                    "principals": PRINCIPALS,
                });
                let mut body = wanted.clone();
                body["ott"] = json!(self.token(path, json!({"step": {"ssh": wanted}})));
                body["publicKey"] = json!(line.split(' ').nth(1));
                (path, body)
            }
            Subject::X509 { csr } => {
                let path = "/1.0/sign";
                let token = self.token(path, json!({"sans": [NAME]}));
                (path, json!({"csr": csr, "ott": token}))
            }
        };
        post(path, body.to_string().as_bytes(), &[])
    }

    fn exchange<'a>(&self, connection: &'a mut Connection, request: &Vec<u8>) -> &'a [u8] {
        connection.exchange(request)
    }

    fn serial(&self, kind: Kind, answer: &[u8]) -> u128 {
        #[derive(Deserialize)]
        struct Answer {
            #[serde(rename = "crt")]
            certificate: String,
        }
        let answer: Answer = serde_json::from_slice(answer).expect("a certificate");
        match kind {
            Kind::Ssh => {
                let bytes = STANDARD.decode(answer.certificate).expect("base64");
                let certificate = Certificate::from_bytes(&bytes).expect("a certificate");
                certificate.serial().into()
            }
            Kind::X509 => {
                let (_, pem) = parse_x509_pem(answer.certificate.as_bytes()).expect("PEM");
                let certificate = pem.parse_x509().expect("a certificate");
                let serial = certificate.raw_serial();
                let number = |number, byte: &u8| number << 8 | u128::from(*byte);
                serial.iter().fold(0, number)
            }
        }
    }

    fn cpu(&self) -> Duration {
        self.process.cpu()
    }
}

impl Drop for StepCa {
    fn drop(&mut self) {
        if thread::panicking() {
            let log = fs::read_to_string(&self.log).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            let last = &lines[lines.len().saturating_sub(20)..];
            eprintln!("--- the end of step-ca's log:\n{}", last.join("\n"));
        }
    }
}

/// A root, and an issuing CA below it.
struct Authority {
    root: String,
    fingerprint: String,
    issuing: String,
    key: String,
}

impl Authority {
    fn new() -> Self {
        let [root_key, key] =
            [(); 2].map(|()| CertificateKey::generate_for(&PKCS_ECDSA_P256_SHA256).expect("a key"));
        let [root, issuing] = [("root", 1), ("issuing", 0)].map(|(name, below)| {
            let mut params = CertificateParams::default();
            params.distinguished_name.push(DnType::CommonName, name);
            params.is_ca = IsCa::Ca(BasicConstraints::Constrained(below));
            params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
            params
        });
        let signed = root.self_signed(&root_key).expect("a certificate");
        let issuer = Issuer::from_params(&root, &root_key);
        let fingerprint = digest(&SHA256, signed.der());
        Self {
            root: signed.pem(),
            fingerprint: hex(fingerprint.as_ref()),
            issuing: issuing
                .signed_by(&key, &issuer)
                .expect("a certificate")
                .pem(),
            key: key.serialize_pem(),
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What `step ca init --ssh` writes, as far as certificates for people need it, for keys that are not
/// encrypted.
fn configuration(folder: &Path, address: &str, provisioner: &EcdsaKeyPair) -> Value {
    // 4, x, y.
    let point = provisioner.public_key().as_ref();
    let [x, y] = [&point[1..33], &point[33..]].map(|number| URL_SAFE_NO_PAD.encode(number));
    json!({
        "root": folder.join("root.crt"),
        "crt": folder.join("issuing.crt"),
        "key": folder.join("issuing.key"),
        "address": address,
        "dnsNames": ["127.0.0.1"],
        "ssh": {"userKey": folder.join("ssh.key")},
        "logger": {"format": "text"},
        "db": {"type": "badgerv2", "dataSource": folder.join("db")},
        "authority": {"provisioners": [{
            "type": "JWK",
            "name": PROVISIONER,
            "key": {
                "use": "sig", "kty": "EC", "kid": PROVISIONER, "crv": "P-256", "alg": "ES256",
                "x": x, "y": y,
            },
            "claims": {"enableSSHCA": true},
        }]},
    })
}

/// Free a moment ago: it takes no socket that is open already.
fn free_address() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address").to_string()
}
