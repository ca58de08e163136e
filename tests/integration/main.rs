//! Hallpass with real OpenSSH and real PostgreSQL.

#![expect(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test that panics says where"
)]

mod bad_input;
mod crash;
mod delivery;
mod enrolment;
mod fail_closed;
mod identity;
mod path;
mod person;
mod postgres_refuses;
mod server;
mod sshd_refuses;
mod start;
mod support;
mod tail;
