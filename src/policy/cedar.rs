//! Reading policy files: what is wrong in them, and where.

use std::path::Path;
use std::str::FromStr;

use cedar_policy::{Policy, PolicyId, PolicySet, ValidationMode, Validator};
use miette::Diagnostic;

use super::names::unknown_names;
use super::{PolicyError, Roles};

/// The policies of a file, each with the id of its `@id`, or else of its file and place.
pub(super) fn parse(path: &Path, text: &str) -> Result<Vec<Policy>, PolicyError> {
    let set = PolicySet::from_str(text).map_err(|error| at(path, text, &error))?;
    if set.templates().next().is_some() {
        let slot = ["?principal", "?resource"]
            .into_iter()
            .filter_map(|slot| text.find(slot))
            .min();
        let message = "templates (?principal, ?resource) are not used: write out the policy";
        return Err(place(
            path,
            text,
            slot.unwrap_or_default(),
            message.to_owned(),
        ));
    }
    let file = path
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default();
    Ok(set
        .policies()
        .map(|policy| {
            let id = match policy.annotation("id") {
                Some(id) if !id.is_empty() => id.to_owned(),
                _ => format!("{file}#{}", policy.id()),
            };
            policy.new_id(PolicyId::new(id))
        })
        .collect())
}

/// What is wrong in a policy by the schema and the roles.
pub(super) fn check(
    validator: &Validator,
    roles: Option<&Roles>,
    path: &Path,
    text: &str,
    policy: &Policy,
) -> Vec<PolicyError> {
    let set = match PolicySet::from_policies([policy.clone()]) {
        Ok(set) => set,
        Err(error) => return vec![at(path, text, &error)],
    };
    let result = validator.validate(&set, ValidationMode::Strict);
    let mut errors: Vec<_> = result
        .validation_errors()
        .map(|error| at(path, text, error))
        .collect();
    // Without roles, they are what is wrong.
    if let Some(roles) = roles
        && let Ok(written) = policy.to_json()
    {
        let unknown = unknown_names(&written, roles);
        errors.extend(unknown.into_iter().map(|unknown| {
            // Of two in a file, the first is shown.
            let offset = text.find(&unknown.written).unwrap_or_default();
            place(path, text, offset, unknown.message)
        }));
    }
    errors
}

/// Holds a policy that no file has against the schema alone.
pub(super) fn check_alone(
    validator: &Validator,
    path: &Path,
    text: &str,
    policy: &Policy,
) -> Result<(), PolicyError> {
    let mut errors = check(validator, None, path, text, policy).into_iter();
    errors.try_for_each(Err)
}

pub(super) fn at(path: &Path, text: &str, error: &dyn Diagnostic) -> PolicyError {
    // A set of errors shows itself through its first.
    let first = error.related().and_then(|mut related| related.next());
    let label = |diagnostic: &dyn Diagnostic| {
        diagnostic
            .labels()
            .and_then(|mut labels| labels.next())
            .map(|label| label.offset())
    };
    let offset = label(error).or_else(|| first.and_then(label)).unwrap_or(0);
    let mut message = error.to_string();
    if let Some(help) = error.help().or_else(|| first.and_then(Diagnostic::help)) {
        message = format!("{message}; {help}");
    }
    place(path, text, offset, message)
}

/// An error at a byte of a text.
pub(super) fn place(path: &Path, text: &str, offset: usize, message: String) -> PolicyError {
    let before = text.get(..offset).unwrap_or_default();
    PolicyError::Cedar {
        path: path.to_owned(),
        line: before.matches('\n').count() + 1,
        column: before.chars().rev().take_while(|c| *c != '\n').count() + 1,
        message,
    }
}
