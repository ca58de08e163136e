//! May this requester have this role, for this purpose, now? Roles bound what can be asked for
//! (`roles.toml`); Cedar decides who may ask (`*.cedar`). Denied unless permitted.

mod action;
mod bounds;
mod cedar;
mod engine;
mod explain;
mod prepared;
mod roles;
mod scope;
mod set;
mod zone;

pub use action::AdminAction;
pub use bounds::{OutOfBounds, check_bounds};
pub use engine::{Ask, Engine, Verdict};
pub use explain::Explained;
pub use roles::{Roles, RolesError};
pub use set::{PolicyError, PolicySet, Stamp};
pub use zone::TimeZone;

/// The schema that policies are checked against.
pub const SCHEMA: &str = include_str!("../../policies/hallpass.cedarschema");

/// The policies that a new home starts with, by file name.
pub const STARTER: [(&str, &str); 4] = [
    ("access.cedar", include_str!("../../policies/access.cedar")),
    (
        "administration.cedar",
        include_str!("../../policies/administration.cedar"),
    ),
    ("hallpass.cedarschema", SCHEMA),
    ("roles.toml", include_str!("../../policies/roles.toml")),
];
