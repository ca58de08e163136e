//! Requests that wait for somebody's approval.

mod waiting;

pub use waiting::{Waiting, Waits};
