//! Where roles and purposes come first, by which they are found.

/// How many entries form a group: what a role or a purpose is looked for in once one of them has it.
pub(super) const GROUP: u64 = 64;

/// The roles and purposes of a group so far. An entry is in the index of its role only when no entry
/// before it in its group has the role, and so with its purpose: there are few of either, so that most
/// entries cost their indexes nothing, and a search still skips the groups that lack what it looks for.
#[derive(Debug, Default)]
pub(super) struct Firsts {
    group: u64,
    roles: Vec<String>,
    purposes: Vec<String>,
}

impl Firsts {
    /// Where the group begins that an entry is in.
    pub(super) fn begin(index: u64) -> u64 {
        index - index % GROUP
    }

    /// Which of an entry's role and purpose come first in its group. Asked of one entry after the other, of
    /// each group from its beginning.
    pub(super) fn of<'a>(
        &mut self,
        index: u64,
        role: Option<&'a str>,
        purpose: Option<&'a str>,
    ) -> [Option<&'a str>; 2] {
        let group = Self::begin(index);
        if self.group != group {
            *self = Self {
                group,
                ..Self::default()
            };
        }
        [
            role.filter(|role| first(&mut self.roles, role)),
            purpose.filter(|purpose| first(&mut self.purposes, purpose)),
        ]
    }
}

/// Whether a name was not there, and puts it there.
fn first(names: &mut Vec<String>, name: &str) -> bool {
    let new = names.iter().all(|known| known != name);
    if new {
        names.push(name.to_owned());
    }
    new
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_name_comes_first_once_in_each_group() {
        let mut firsts = Firsts::default();
        let deploy = Some("deploy");
        assert_eq!(firsts.of(3, deploy, deploy), [deploy, deploy]);
        assert_eq!(
            firsts.of(4, deploy, Some("support")),
            [None, Some("support")]
        );
        assert_eq!(firsts.of(5, None, None), [None, None]);
        assert_eq!(
            firsts.of(GROUP - 1, Some("dba"), deploy),
            [Some("dba"), None]
        );
        assert_eq!(firsts.of(GROUP, deploy, None), [deploy, None]);
        assert_eq!(firsts.of(5 * GROUP + 1, deploy, deploy), [deploy, deploy]);
    }
}
