//! May this requester have this role, for this purpose, now? Roles bound what can be asked for
//! (`roles.toml`); Cedar decides who may ask (`*.cedar`). Denied unless permitted.

mod action;
mod asked;
mod bounds;
mod cases;
mod cedar;
mod context;
mod engine;
mod explain;
mod invariants;
mod judge;
mod names;
mod prove;
mod roles;
mod scope;
mod set;
mod zone;

pub use action::AdminAction;
pub use bounds::OutOfBounds;
pub use cases::{Case, Failed, Tested};
pub use engine::{APPROVE, Approval, Ask, Engine, Verdict};
pub use explain::Explained;
pub use invariants::Invariant;
pub use judge::{Judged, Wanted};
pub use prove::{Counterexample, Difference, Outcome, Proof, ProveError, Prover};
pub use roles::{Roles, RolesError};
pub use set::{PolicyError, PolicySet, Stamp};
pub use zone::TimeZone;

/// The schema that policies are checked against.
pub const SCHEMA: &str = include_str!("../../policies/hallpass.cedarschema");

/// The policies that a new home starts with, by file name.
pub const STARTER: [(&str, &str); 6] = [
    ("access.cedar", include_str!("../../policies/access.cedar")),
    (
        "administration.cedar",
        include_str!("../../policies/administration.cedar"),
    ),
    ("cases.toml", include_str!("../../policies/cases.toml")),
    ("hallpass.cedarschema", SCHEMA),
    (
        "invariants.toml",
        include_str!("../../policies/invariants.toml"),
    ),
    ("roles.toml", include_str!("../../policies/roles.toml")),
];
