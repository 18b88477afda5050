//! Who may do what: rules, and the decision, which is pure.

use crate::name::Pattern;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// What can be done with a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// Reading.
    Pull,
    /// Adding, and moving tags.
    Push,
    /// Deleting.
    Delete,
}

impl Action {
    /// All actions.
    pub const ALL: [Self; 3] = [Self::Pull, Self::Push, Self::Delete];

    /// The word in scopes of tokens.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pull => "pull",
            Self::Push => "push",
            Self::Delete => "delete",
        }
    }
}

/// Allows something to somebody. What no rule allows is forbidden.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// In which repositories.
    pub repositories: Pattern,
    /// What.
    pub actions: Vec<Action>,
    /// To these users.
    #[serde(default)]
    pub users: Vec<String>,
    /// To users of these groups.
    #[serde(default)]
    pub groups: Vec<String>,
    /// To every user who is known.
    #[serde(default)]
    pub everybody: bool,
    /// To those as well who do not say who they are.
    #[serde(default)]
    pub anonymous: bool,
}

/// The rules, and who is in which group.
#[derive(Debug, Clone, Default)]
pub(crate) struct Policy {
    /// Whether clients are asked who they are at all.
    pub(crate) asks: bool,
    pub(crate) rules: Vec<Rule>,
    pub(crate) groups: BTreeMap<String, Vec<String>>,
}

/// What a token allows: actions by repository.
pub(crate) type Grants = BTreeMap<String, BTreeSet<Action>>;

/// Who is asking.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Caller {
    /// Somebody who did not say.
    Anonymous,
    /// A user who proved it.
    User(String),
    /// The bearer of a token, which says what is allowed.
    Bearer {
        /// Whose token it is; empty for anonymous ones.
        user: String,
        /// What it allows.
        grants: Grants,
        /// Whether it allows listing repositories.
        catalog: bool,
    },
}

impl Caller {
    /// The name, for logs.
    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Anonymous => "",
            Self::User(user) | Self::Bearer { user, .. } => user,
        }
    }
}

impl Policy {
    /// Whether `caller` may do `action` with `repository`.
    pub(crate) fn allows(&self, caller: &Caller, repository: &str, action: Action) -> bool {
        if !self.asks {
            return true;
        }
        let user = match caller {
            Caller::Bearer { grants, .. } => {
                return grants.get(repository).is_some_and(|granted| granted.contains(&action));
            }
            Caller::User(user) => Some(user.as_str()),
            Caller::Anonymous => None,
        };
        if self.rules.is_empty() {
            return user.is_some();
        }
        let about = |rule: &&Rule| rule.actions.contains(&action) && rule.repositories.matches(repository);
        self.rules.iter().filter(about).any(|rule| self.meets(rule, user))
    }

    fn meets(&self, rule: &Rule, user: Option<&str>) -> bool {
        let Some(user) = user else { return rule.anonymous };
        let is_member = |group: &String| {
            self.groups.get(group).is_some_and(|members| members.iter().any(|member| member == user))
        };
        rule.anonymous
            || rule.everybody
            || rule.users.iter().any(|named| named == user)
            || rule.groups.iter().any(is_member)
    }

    /// Whether `caller` may list repositories: those that he may pull from are shown.
    pub(crate) fn allows_catalog(&self, caller: &Caller) -> bool {
        match caller {
            Caller::Bearer { catalog, .. } => *catalog,
            Caller::User(_) => true,
            Caller::Anonymous => !self.asks || self.rules.iter().any(|rule| self.meets(rule, None)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(text: &str) -> Rule {
        toml::from_str(text).unwrap()
    }

    fn user(name: &str) -> Caller {
        Caller::User(name.to_owned())
    }

    fn policy() -> Policy {
        Policy {
            asks: true,
            rules: vec![
                rule("repositories = 'public/**'\nactions = ['pull']\nanonymous = true"),
                rule("repositories = 'team/**'\nactions = ['pull', 'push']\ngroups = ['dev']"),
                rule("repositories = '**'\nactions = ['pull', 'push', 'delete']\nusers = ['root']"),
                rule("repositories = 'shared/*'\nactions = ['pull']\neverybody = true"),
            ],
            groups: BTreeMap::from([("dev".to_owned(), vec!["alice".to_owned()])]),
        }
    }

    #[test]
    fn only_what_a_rule_allows() {
        let policy = policy();
        let cases = [
            (Caller::Anonymous, "public/a", Action::Pull, true),
            (Caller::Anonymous, "public/a", Action::Push, false),
            (Caller::Anonymous, "team/a", Action::Pull, false),
            (Caller::Anonymous, "shared/a", Action::Pull, false),
            (user("bob"), "public/a", Action::Pull, true),
            (user("bob"), "shared/a", Action::Pull, true),
            (user("bob"), "team/a", Action::Pull, false),
            (user("alice"), "team/a", Action::Push, true),
            (user("alice"), "team/a", Action::Delete, false),
            (user("root"), "team/a", Action::Delete, true),
        ];
        for (caller, repository, action, want) in cases {
            assert_eq!(
                policy.allows(&caller, repository, action),
                want,
                "{caller:?} {repository} {action:?}"
            );
        }
    }

    #[test]
    fn a_token_allows_what_it_says_and_no_more() {
        let grants = BTreeMap::from([("team/a".to_owned(), BTreeSet::from([Action::Pull]))]);
        let bearer = Caller::Bearer { user: "root".into(), grants, catalog: false };
        assert!(policy().allows(&bearer, "team/a", Action::Pull));
        assert!(!policy().allows(&bearer, "team/a", Action::Push));
        assert!(!policy().allows(&bearer, "public/a", Action::Pull));
    }

    #[test]
    fn without_rules_users_may_and_strangers_may_not() {
        let policy = Policy { asks: true, ..Policy::default() };
        assert!(policy.allows(&user("x"), "a", Action::Delete));
        assert!(!policy.allows(&Caller::Anonymous, "a", Action::Pull));
        assert!(Policy::default().allows(&Caller::Anonymous, "a", Action::Delete));
    }
}
