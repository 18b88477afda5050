//! What proves to a server who asks for a repository.

use super::run::basic;
use super::{Git, GitUrl};
use std::path::PathBuf;
use yare_errdefs::{Error, Result};

/// Keys to a repository, by the names under which a client may have them. Without any, nothing is proven.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GitKeys {
    /// A secret that is a token.
    pub token: Option<String>,
    /// A secret that is all that the header `Authorization` says.
    pub header: Option<String>,
    /// An SSH agent.
    pub agent: Option<String>,
    /// Lines of `known_hosts` that are believed.
    pub known_hosts: Option<String>,
}

impl Default for GitKeys {
    /// The names that the field has for them.
    fn default() -> Self {
        let name = |name: &str| Some(name.to_owned());
        Self {
            token: name("GIT_AUTH_TOKEN"),
            header: name("GIT_AUTH_HEADER"),
            agent: name("default"),
            known_hosts: None,
        }
    }
}

impl GitKeys {
    /// None.
    pub fn none() -> Self {
        Self { token: None, header: None, agent: None, known_hosts: None }
    }

    /// Names of secrets in the order in which they are looked for, and which of them are tokens. Those of a
    /// host go before those of all.
    fn secrets(&self, host: &str) -> Vec<(String, bool)> {
        let kinds =
            || self.header.iter().map(|name| (name, false)).chain(self.token.iter().map(|name| (name, true)));
        let own = kinds().map(|(name, token)| (format!("{name}.{host}"), token));
        own.chain(kinds().map(|(name, token)| (name.clone(), token))).collect()
    }
}

impl Git {
    /// Takes what a client has of these keys to a repository.
    ///
    /// # Errors
    /// The client cannot be asked, or a secret is nothing that could be sent.
    pub fn unlock(
        &mut self,
        url: &GitUrl,
        keys: &GitKeys,
        secret: impl Fn(&str) -> Result<Option<Vec<u8>>>,
        agent: impl FnOnce(&str) -> Result<Option<PathBuf>>,
    ) -> Result<()> {
        self.known_hosts.clone_from(&keys.known_hosts);
        self.ssh_agent = keys.agent.as_deref().map(agent).transpose()?.flatten();
        for (name, is_token) in keys.secrets(&url.host) {
            let Some(value) = secret(&name)? else { continue };
            let value = value.trim_ascii_end();
            let plain = |byte: &u8| matches!(byte, b' '..=b'~');
            if value.is_empty() || !value.iter().all(plain) {
                return Err(Error::invalid(format!("the secret {name} is no line of plain text")));
            }
            let text = String::from_utf8_lossy(value).into_owned();
            self.authorization =
                Some(if is_token { basic(format!("x-access-token:{text}").as_bytes()) } else { text });
            break;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is sent where a client has these secrets.
    fn sent(keys: &GitKeys, secrets: &[(&str, &str)]) -> Result<Option<String>> {
        let mut git = Git::new("/nowhere");
        let url = super::super::GitRef::parse("https://git.example:8443/x.git")?.unwrap().url;
        let secret = |id: &str| {
            let found = secrets.iter().find(|(name, _)| *name == id);
            Ok(found.map(|(_, value)| value.as_bytes().to_vec()))
        };
        git.unlock(&url, keys, secret, |id| Ok(Some(PathBuf::from(id))))?;
        assert_eq!(git.ssh_agent, keys.agent.as_ref().map(PathBuf::from));
        Ok(git.authorization)
    }

    #[test]
    fn the_nearest_secret_counts() {
        let field = GitKeys::default();
        let token = "Basic eC1hY2Nlc3MtdG9rZW46dA==";
        for (secrets, expected) in [
            (vec![], None),
            (vec![("GIT_AUTH_TOKEN", "t\n")], Some(token)),
            (vec![("GIT_AUTH_TOKEN", "t"), ("GIT_AUTH_HEADER", "bearer h")], Some("bearer h")),
            (vec![("GIT_AUTH_TOKEN.git.example:8443", "t"), ("GIT_AUTH_HEADER", "bearer h")], Some(token)),
            (vec![("GIT_AUTH_TOKEN.other.example", "t")], None),
        ] {
            assert_eq!(sent(&field, &secrets).unwrap().as_deref(), expected, "{secrets:?}");
        }
        let own = GitKeys { token: Some("mine".to_owned()), ..GitKeys::none() };
        assert_eq!(sent(&own, &[("GIT_AUTH_TOKEN", "x"), ("mine", "t")]).unwrap().as_deref(), Some(token));
        assert_eq!(sent(&GitKeys::none(), &[("GIT_AUTH_TOKEN", "x")]).unwrap(), None);
        assert!(sent(&field, &[("GIT_AUTH_TOKEN", "a\nHost: b")]).is_err(), "no second header");
    }
}
