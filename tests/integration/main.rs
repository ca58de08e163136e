//! Hallpass with real OpenSSH and real PostgreSQL.

#![expect(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test that panics says where"
)]

mod approvals;
mod archive;
mod backup;
mod bad_input;
mod broken_providers;
mod crash;
mod delivery;
mod enrolment;
mod export;
mod fail_closed;
mod faults;
mod fido2;
mod fleet;
mod forged_logins;
mod forged_tokens;
mod hosts;
mod identity;
mod import;
mod independent;
mod log_key;
mod login;
mod offline_root;
mod path;
mod person;
mod policy;
mod policy_tools;
mod postgres_refuses;
mod reseal;
mod rotation;
mod rotation_under_load;
mod runbook;
mod secrets;
mod server;
mod sessions;
mod sshd_refuses;
mod start;
mod support;
mod tail;
mod tamper;
mod tiles;
mod token;
mod touch;
mod witness;
mod witnessing;
mod workloads;
