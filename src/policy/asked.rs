use std::sync::Arc;

use cedar_policy::{Entities, EntityUid, PolicySet};

/// What Cedar needs to know of a requester and what they ask for. It is the same each time, and
/// making it costs more than the decision.
pub(super) struct Asked {
    pub(super) principal: EntityUid,
    pub(super) action: EntityUid,
    pub(super) resource: EntityUid,
    pub(super) entities: Entities,
    /// Those whose heads fit.
    pub(super) policies: Arc<PolicySet>,
}
