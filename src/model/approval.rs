use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{EntryIndex, Purpose, Reason, RoleName, Timestamp, Ttl, UserName};

/// For how long an approval counts at most.
pub const LONGEST_APPROVAL: Duration = Duration::from_secs(60 * 60);

/// A request that waits for approval.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WaitingRequest {
    /// The entry of the audit log by which it is approved.
    #[schema(value_type = u64)]
    pub entry: EntryIndex,
    /// Who asks.
    #[schema(value_type = String)]
    pub requester: UserName,
    /// The role asked for.
    #[schema(value_type = String)]
    pub role: RoleName,
    /// What for.
    #[schema(value_type = String)]
    pub purpose: Purpose,
    /// Why, when that was said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub reason: Option<Reason>,
    /// For how long.
    #[schema(value_type = String)]
    pub ttl: Ttl,
    /// How many approvals it needs in all.
    pub needs: u32,
    /// Who has approved it, as it counts now.
    #[schema(value_type = Vec<String>)]
    pub approved_by: Vec<UserName>,
    /// Until when it waits (RFC 3339).
    #[schema(value_type = String)]
    pub until: Timestamp,
}

/// An approval that was given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct GivenApproval {
    /// The request, as it is now.
    pub request: WaitingRequest,
    /// Until when the approval counts (RFC 3339).
    #[schema(value_type = String)]
    pub expires: Timestamp,
    /// The entry of the audit log that holds it.
    #[schema(value_type = u64)]
    pub entry: EntryIndex,
}
