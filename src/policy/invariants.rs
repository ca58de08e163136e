//! What must hold for whatever the policies permit: `invariants.toml`.

use std::collections::BTreeSet;
use std::path::Path;

use cedar_policy::{EntityUid, Policy, PolicyId, Validator};
use serde::Deserialize;
use toml::Spanned;

use super::cedar::{at, check_alone, place};
use super::engine::schema;
use super::{APPROVE, AdminAction, PolicyError};

/// One of them.
#[derive(Clone, Debug)]
pub struct Invariant {
    /// Its name.
    pub id: String,
    /// What it says, in a sentence.
    pub says: String,
    /// What must hold, in Cedar.
    pub holds: String,
    /// What it is about: `request`, `approve`, or an act of administration.
    pub action: String,
    /// It as a policy, which permits exactly where it holds.
    pub(super) policy: Policy,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    #[serde(default)]
    invariant: Vec<Spanned<WrittenInvariant>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenInvariant {
    id: String,
    says: String,
    holds: Spanned<String>,
    #[serde(default = "request")]
    action: String,
}

/// What an invariant is about that says nothing else.
const REQUEST: &str = "request";

fn request() -> String {
    REQUEST.to_owned()
}

impl Invariant {
    /// Reads the text of `invariants.toml`.
    ///
    /// # Errors
    /// All that does not parse or check, with its place.
    pub(super) fn parse(path: &Path, text: &str) -> Result<Vec<Self>, Vec<PolicyError>> {
        let written: Written = toml::from_str(text).map_err(|error| {
            let offset = error.span().map_or(0, |span| span.start);
            vec![place(path, text, offset, error.message().to_owned())]
        })?;
        let validator = Validator::new(schema());
        let mut ids = BTreeSet::new();
        let (mut invariants, mut errors) = (Vec::new(), Vec::new());
        for written in written.invariant {
            let start = written.span().start;
            let written = written.into_inner();
            let wrong = |offset, message| place(path, text, offset, message);
            if !ids.insert(written.id.clone()) {
                let message = format!("there is another invariant {:?}", written.id);
                errors.push(wrong(start, message));
            }
            let actions = AdminAction::ALL.map(AdminAction::as_str);
            let on_roles = [REQUEST, APPROVE];
            let known = on_roles.into_iter().chain(actions);
            if !known.into_iter().any(|known| known == written.action) {
                let message = format!(
                    "action {:?} is none: use request, approve or one of {}",
                    written.action,
                    actions.join(", ")
                );
                errors.push(wrong(start, message));
                continue;
            }
            let (from, holds) = (written.holds.span().start, written.holds.into_inner());
            let head = format!(
                "permit (principal, action == Action::{:?}, resource)\nwhen {{ ",
                written.action
            );
            let whole = format!("{head}{holds} }};");
            let checked = Policy::parse(Some(PolicyId::new(&written.id)), &whole)
                .map_err(|error| at(path, &whole, &error))
                .and_then(|policy| check_alone(&validator, path, &whole, &policy).map(|()| policy));
            match checked {
                Ok(policy) => invariants.push(Self {
                    id: written.id,
                    says: written.says,
                    holds,
                    action: written.action,
                    policy,
                }),
                Err(PolicyError::Cedar { message, .. }) => {
                    let message = format!("invariant {}: {message}", written.id);
                    errors.push(wrong(from, message));
                }
                Err(error) => errors.push(error),
            }
        }
        if errors.is_empty() {
            Ok(invariants)
        } else {
            Err(errors)
        }
    }

    /// Whether it is about that action.
    pub(super) fn is_about(&self, action: &EntityUid) -> bool {
        action.id().unescaped() == self.action
    }
}
