use std::sync::Arc;

use cedar_policy::{Entities, EntityUid, PolicySet};

use super::context::Reads;

/// What Cedar needs to know of a requester and what they ask for. It is the same each time, and
/// making it costs more than the decision.
pub(super) struct Asked {
    pub(super) principal: EntityUid,
    pub(super) action: EntityUid,
    pub(super) resource: EntityUid,
    pub(super) entities: Entities,
    pub(super) slice: Arc<Slice>,
}

/// Policies whose heads fit.
pub(super) struct Slice {
    pub(super) policies: PolicySet,
    pub(super) reads: Reads,
}
