use crate::model::{Purpose, Reason, Role, Ttl};

/// A request for more than its role has, which no policy can grant.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct OutOfBounds {
    /// A word that programs can rely on.
    pub code: &'static str,
    /// The same for people.
    pub detail: String,
}

/// Holds a request against its role.
///
/// # Errors
/// At the first bound that it oversteps.
pub(super) fn check_bounds(
    role: &Role,
    purpose: &Purpose,
    reason: Option<&Reason>,
    ttl: Ttl,
) -> Result<(), OutOfBounds> {
    let name = &role.name;
    let (code, detail) = if !role.purposes.contains(purpose) {
        let purposes: Vec<&str> = role.purposes.iter().map(Purpose::as_str).collect();
        let purposes = purposes.join(", ");
        (
            "wrong-purpose",
            format!("role {name} does not serve purpose {purpose}, but {purposes}"),
        )
    } else if ttl > role.max_ttl {
        let longest = role.max_ttl;
        (
            "ttl-too-long",
            format!("role {name} is granted for at most {longest}, not {ttl}"),
        )
    } else if !role.reason.accepts(reason) {
        let detail = match role.reason.written_pattern() {
            Some(pattern) => format!("role {name} needs a --reason that matches {pattern}"),
            None => format!("role {name} needs a --reason"),
        };
        ("reason-missing", detail)
    } else {
        return Ok(());
    };
    Err(OutOfBounds { code, detail })
}
