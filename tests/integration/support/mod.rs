//! The real parts that the tests are made of: a CA, people, an sshd, a PostgreSQL.

mod agent;
mod authenticator;
mod ca;
mod certificates;
mod csr;
mod folder;
mod forged;
mod hand_log;
mod history;
mod host;
mod impostor;
mod independent;
mod load;
mod login;
mod openid;
mod postgres;
mod ran;
mod raw;
mod received;
mod rsyslog;
mod scene;
mod softhsm;
mod sshd;
mod webhook;
mod witness;

pub(crate) use agent::Agent;
pub(crate) use authenticator::{Authenticator, TOUCHED, VERIFIED, bytes};
pub(crate) use ca::{
    Ca, Home, PASSPHRASE, Person, program, serve_fails, serve_fails_with, short_lived,
};
pub(crate) use certificates::OtherCa;
pub(crate) use csr::{P256, make_csr};
pub(crate) use folder::{Folder, Volume, free_port, is_root, own_name, wait_until};
pub(crate) use forged::{Thief, client_key, forge_client, forge_ssh};
pub(crate) use hand_log::HandLog;
pub(crate) use host::Host;
pub(crate) use impostor::{Impostor, read_request};
pub(crate) use independent::independent;
pub(crate) use load::{assert_none_while_locked, issue, under_load, while_asked};
pub(crate) use login::{
    Browser, Login, PATIENTS, clinic, is_refused, parameter, seconds_between, session_fingerprint,
    sign_in, visit,
};
pub(crate) use openid::{CLIENT_SECRET, Provider, home_with};
pub(crate) use postgres::Postgres;
pub(crate) use ran::{Ran, fails_when_full, run};
pub(crate) use raw::{Answer, Request, exchange, tls, tls_from};
pub(crate) use received::Received;
pub(crate) use rsyslog::Rsyslog;
pub(crate) use scene::Scene;
pub(crate) use softhsm::SoftHsm;
pub(crate) use sshd::Sshd;
pub(crate) use webhook::{Manner, Webhook};
pub(crate) use witness::{Witness, WitnessHome};
