//! Names in policies that Cedar knows nothing of: roles, their groups, and purposes. A `forbid` for
//! a role that is written wrong would forbid nothing.

use serde_json::Value;

use super::Roles;
use crate::model::GroupName;

/// A name that nothing has.
pub(super) struct Unknown {
    /// As it stands in the policy.
    pub(super) written: String,
    /// What is wrong.
    pub(super) message: String,
}

/// The names in a policy, in Cedar's JSON, that `roles.toml` does not declare.
pub(super) fn unknown_names(policy: &Value, roles: &Roles) -> Vec<Unknown> {
    let mut unknown = Vec::new();
    walk(policy, roles, &mut unknown);
    unknown
}

fn walk(value: &Value, roles: &Roles, unknown: &mut Vec<Unknown>) {
    match value {
        Value::Object(fields) => {
            if let (Some(Value::String(kind)), Some(Value::String(id))) =
                (fields.get("type"), fields.get("id"))
            {
                unknown.extend(unknown_entity(kind, id, roles));
            }
            for operator in ["==", "!=", "contains", "containsAny", "containsAll"] {
                if let Some(both) = fields.get(operator) {
                    purposes(both, roles, unknown);
                }
            }
            fields
                .values()
                .for_each(|value| walk(value, roles, unknown));
        }
        Value::Array(values) => values.iter().for_each(|value| walk(value, roles, unknown)),
        _ => {}
    }
}

fn unknown_entity(kind: &str, id: &str, roles: &Roles) -> Option<Unknown> {
    let (is_known, known): (bool, Vec<&str>) = match kind {
        "Role" => {
            let names = roles.iter().map(|role| role.name.as_str());
            let known: Vec<_> = names.collect();
            (known.contains(&id), known)
        }
        "RoleGroup" => {
            let groups = roles.iter().flat_map(|role| &role.groups);
            let known: Vec<_> = groups.map(GroupName::as_str).collect();
            (known.contains(&id), known)
        }
        "Authority" => (id == "hallpass", vec!["hallpass"]),
        _ => return None,
    };
    (!is_known).then(|| Unknown {
        written: format!("{kind}::{id:?}"),
        message: format!(
            "there is no {kind}::{id:?} in roles.toml{}",
            hint(id, &known)
        ),
    })
}

/// What is compared with `context.purpose`.
fn purposes(both: &Value, roles: &Roles, unknown: &mut Vec<Unknown>) {
    let (left, right) = (&both["left"], &both["right"]);
    let is_purpose =
        |side: &Value| side["."]["attr"] == "purpose" && side["."]["left"]["Var"] == "context";
    let other = match (is_purpose(left), is_purpose(right)) {
        (true, false) => right,
        (false, true) => left,
        _ => return,
    };
    let single = [other.clone()];
    let values = other["Set"].as_array().map_or(&single[..], Vec::as_slice);
    let known: Vec<&str> = roles
        .purposes()
        .map(|(purpose, _)| purpose.as_str())
        .collect();
    for purpose in values.iter().filter_map(|value| value["Value"].as_str()) {
        if !known.contains(&purpose) {
            unknown.push(Unknown {
                written: format!("{purpose:?}"),
                message: format!(
                    "purpose {purpose:?} is not declared in roles.toml{}",
                    hint(purpose, &known)
                ),
            });
        }
    }
}

/// The name that was meant, most likely.
fn hint(wrong: &str, known: &[&str]) -> String {
    let near = known
        .iter()
        .map(|name| (distance(wrong, name), name))
        .min_by_key(|(distance, _)| *distance)
        .filter(|(distance, _)| *distance <= 1 + wrong.len() / 4);
    match near {
        Some((_, name)) => format!("; did you mean {name:?}?"),
        None if known.is_empty() => String::new(),
        None => {
            let mut known = known.to_vec();
            known.sort_unstable();
            known.dedup();
            format!("; there are {}", known.join(", "))
        }
    }
}

/// The Levenshtein distance.
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().take(64).collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (place, a) in one.chars().take(64).enumerate() {
        let mut corner = row[0];
        row[0] = place + 1;
        for (column, b) in other.iter().enumerate() {
            let changed = corner + usize::from(a != *b);
            corner = row[column + 1];
            row[column + 1] = changed.min(corner + 1).min(row[column] + 1);
        }
    }
    row[other.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_are_counted_in_edits() {
        for (one, other, edits) in [
            ("", "", 0),
            ("deploy", "deploy", 0),
            ("deply", "deploy", 1),
            ("incidnet", "incident", 2),
            ("", "abc", 3),
            ("kitten", "sitting", 3),
        ] {
            assert_eq!(distance(one, other), edits, "{one} {other}");
            assert_eq!(distance(other, one), edits, "{other} {one}");
        }
    }
}
