use std::collections::HashSet;

use cedar_policy::{
    ActionConstraint, EntityTypeName, EntityUid, Policy, PrincipalConstraint, ResourceConstraint,
};

/// Who asks what, as far as the heads of policies tell policies apart.
pub(super) struct Scope<'a> {
    pub(super) principal: &'a EntityUid,
    pub(super) groups: &'a HashSet<EntityUid>,
    pub(super) action: &'a EntityUid,
    pub(super) resource: &'a EntityUid,
    pub(super) resource_groups: &'a HashSet<EntityUid>,
}

impl Scope<'_> {
    /// Whether the policy's head fits: nothing else of one that does not can matter.
    pub(super) fn fits(&self, policy: &Policy) -> bool {
        self.fits_action(policy) && self.fits_principal(policy) && self.fits_resource(policy)
    }

    pub(super) fn fits_action(&self, policy: &Policy) -> bool {
        match policy.action_constraint() {
            ActionConstraint::Any => true,
            ActionConstraint::Eq(action) => action == *self.action,
            ActionConstraint::In(actions) => actions.contains(self.action),
        }
    }

    fn fits_principal(&self, policy: &Policy) -> bool {
        let is = |kind: &EntityTypeName| kind == self.principal.type_name();
        let within = |group: &EntityUid| is_in(self.principal, self.groups, group);
        match policy.principal_constraint() {
            PrincipalConstraint::Any => true,
            PrincipalConstraint::Eq(one) => one == *self.principal,
            PrincipalConstraint::In(group) => within(&group),
            PrincipalConstraint::Is(kind) => is(&kind),
            PrincipalConstraint::IsIn(kind, group) => is(&kind) && within(&group),
        }
    }

    pub(super) fn fits_resource(&self, policy: &Policy) -> bool {
        let is = |kind: &EntityTypeName| kind == self.resource.type_name();
        let within = |group: &EntityUid| is_in(self.resource, self.resource_groups, group);
        match policy.resource_constraint() {
            ResourceConstraint::Any => true,
            ResourceConstraint::Eq(one) => one == *self.resource,
            ResourceConstraint::In(group) => within(&group),
            ResourceConstraint::Is(kind) => is(&kind),
            ResourceConstraint::IsIn(kind, group) => is(&kind) && within(&group),
        }
    }
}

/// Cedar's `in`: groups are in no groups themselves here.
fn is_in(one: &EntityUid, groups: &HashSet<EntityUid>, group: &EntityUid) -> bool {
    one == group || groups.contains(group)
}
