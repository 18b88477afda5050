//! `RUN --mount`.

use crate::flags::go_bool;
use crate::suggest::{nearest, parenthesis};
use crate::text::bytes;
use serde::Serialize;
use yare_gotext::quote;

/// A mount as written. Variables in it expand when the step is evaluated, except in `from`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunMount {
    /// Key as written, and value if there is one.
    fields: Vec<(String, Option<String>)>,
}

/// A mount whose variables are expanded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// What is mounted.
    pub kind: MountKind,
    /// Where; may be relative to the working directory. Empty if it wasn't said: a secret goes to
    /// `/run/secrets/<id>` then, unless it is for a variable alone, an agent's socket to a place of the
    /// engine's choice, and for the others it is an error that the engine reports.
    pub target: String,
    /// Whether it can't be written to.
    pub read_only: bool,
}

/// The kinds of mounts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MountKind {
    /// Files of the context, a stage or an image. What is written is discarded.
    Bind {
        /// Stage, named context or image; the build context if not said.
        from: Option<String>,
        /// Path in it; its root if empty.
        source: String,
    },
    /// A directory that builds share and no layer has.
    Cache {
        /// Its name; the target if not said.
        id: String,
        /// Who may use it at the same time.
        sharing: Sharing,
        /// What it is filled with at first.
        from: Option<String>,
        /// Path in that.
        source: String,
        /// Permissions of a new one.
        mode: u32,
        /// Owner of a new one.
        uid: u32,
        /// Group of a new one.
        gid: u32,
    },
    /// Memory.
    Tmpfs {
        /// The most bytes it takes.
        size: Option<u64>,
    },
    /// A secret as a file, or as a variable.
    Secret {
        /// Its name.
        id: String,
        /// The variable that has it. With one, there is a file only if the target is said.
        env: Option<String>,
        /// Whether its absence is an error.
        required: bool,
        /// Permissions of the file.
        mode: u32,
        /// Its owner.
        uid: u32,
        /// Its group.
        gid: u32,
    },
    /// The socket of an SSH agent.
    Ssh {
        /// Which agent.
        id: String,
        /// Whether its absence is an error.
        required: bool,
        /// Permissions of the socket.
        mode: u32,
        /// Its owner.
        uid: u32,
        /// Its group.
        gid: u32,
    },
}

/// Who may use a cache mount at the same time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub enum Sharing {
    /// Everyone.
    #[default]
    Shared,
    /// Everyone gets one of their own.
    Private,
    /// One after the other.
    Locked,
}

const KEYS: &[&str] = &[
    "type",
    "from",
    "source",
    "target",
    "readonly",
    "id",
    "sharing",
    "required",
    "mode",
    "uid",
    "gid",
    "src",
    "dst",
    "destination",
    "ro",
    "rw",
    "readwrite",
    "size",
    "env",
];

const TYPES: &[&str] = &["bind", "cache", "tmpfs", "secret", "ssh"];

impl RunMount {
    /// Reads the fields. A mount without variables is checked at once.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut fields = Vec::new();
        for field in csv(text).map_err(|why| format!("failed to parse csv mounts: {why}"))? {
            let (key, value) = match field.split_once('=') {
                Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
                None => (field, None),
            };
            let variable = value.as_deref().is_some_and(|value| value.trim_end_matches('$').contains('$'));
            if key.eq_ignore_ascii_case("from") && variable {
                return Err("'from' doesn't support variable expansion, define alias stage instead".into());
            }
            fields.push((key, value));
        }
        let mount = Self { fields };
        if !mount.has_variables() {
            mount.resolve(|value| Ok(value.to_owned()))?;
        }
        Ok(mount)
    }

    fn has_variables(&self) -> bool {
        self.fields
            .iter()
            .any(|(_, value)| value.as_deref().is_some_and(|value| value.contains(['$', '\\', '\'', '"'])))
    }

    /// `from`: a stage, named context or image. It has no variables, so that the order of stages is known
    /// before anything is evaluated.
    pub fn from(&self) -> Option<&str> {
        let from = self.fields.iter().rev().find(|(key, _)| key.eq_ignore_ascii_case("from"));
        from.and_then(|(_, value)| value.as_deref()).filter(|from| !from.is_empty())
    }

    /// The mount, with the value of every field sent through `expand`.
    pub fn resolve(&self, mut expand: impl FnMut(&str) -> Result<String, String>) -> Result<Mount, String> {
        let mut fields = Fields::default();
        for (key, value) in &self.fields {
            let key = key.to_ascii_lowercase();
            match value {
                None => fields.flag(&key)?,
                Some(value) => fields.value(&key, expand(value)?, value)?,
            }
        }
        fields.mount()
    }
}

/// Fields as they come.
#[derive(Default)]
struct Fields {
    kind: Option<&'static str>,
    from: Option<String>,
    source: String,
    target: String,
    id: String,
    env: Option<String>,
    sharing: Option<Sharing>,
    read_only: Option<bool>,
    required: bool,
    size: Option<u64>,
    mode: Option<u32>,
    uid: Option<u32>,
    gid: Option<u32>,
}

impl Fields {
    fn kind(&self) -> &'static str {
        self.kind.unwrap_or("bind")
    }

    /// A key alone.
    fn flag(&mut self, key: &str) -> Result<(), String> {
        match key {
            "readonly" | "ro" => self.read_only = Some(true),
            "readwrite" | "rw" => self.read_only = Some(false),
            "required" => {
                self.only_for(key, &["secret", "ssh"])?;
                self.required = true;
            }
            _ => return Err(format!("invalid field '{key}' must be a key=value pair")),
        }
        Ok(())
    }

    fn only_for(&self, key: &str, kinds: &[&str]) -> Result<(), String> {
        if kinds.contains(&self.kind()) {
            return Ok(());
        }
        Err(format!("unexpected key '{key}' for mount type '{}'", self.kind()))
    }

    fn value(&mut self, key: &str, value: String, written: &str) -> Result<(), String> {
        let invalid = || format!("invalid value for {key}: {value}");
        let number = |radix| {
            u32::from_str_radix(&value, radix).map_err(|_| format!("invalid value {value} for {key}"))
        };
        match key {
            "type" => {
                let known = TYPES.iter().find(|known| known.eq_ignore_ascii_case(&value));
                self.kind = Some(known.ok_or_else(|| {
                    let near = parenthesis(nearest(&value, TYPES.iter().copied()));
                    format!("unsupported mount type {}{near}", quote(&value))
                })?);
            }
            "from" => self.from = Some(value).filter(|from| !from.is_empty()),
            "source" | "src" => self.source = value,
            "target" | "dst" | "destination" => self.target = value,
            "readonly" | "ro" => self.read_only = Some(go_bool(&value).ok_or_else(invalid)?),
            "readwrite" | "rw" => self.read_only = Some(!go_bool(&value).ok_or_else(invalid)?),
            "required" => {
                self.only_for(key, &["secret", "ssh"])?;
                self.required = go_bool(&value).ok_or_else(invalid)?;
            }
            "size" => {
                self.only_for(key, &["tmpfs"])?;
                self.size = Some(bytes(&value).ok_or_else(invalid)?);
            }
            "env" => {
                self.only_for(key, &["secret"])?;
                self.env = Some(value);
            }
            "id" => self.id = value,
            "sharing" => self.sharing = Some(sharing(&value)?),
            "mode" => self.mode = Some(number(8)?),
            "uid" => self.uid = Some(number(10)?),
            "gid" => self.gid = Some(number(10)?),
            _ => {
                let near = parenthesis(nearest(key, KEYS.iter().copied()));
                return Err(format!("unexpected key '{key}' in '{key}={written}'{near}"));
            }
        }
        Ok(())
    }

    /// The mount, if the fields go together.
    fn mount(self) -> Result<Mount, String> {
        let kind = self.kind();
        if matches!(kind, "bind" | "tmpfs") {
            for (key, given) in [("mode", self.mode), ("uid", self.uid), ("gid", self.gid)] {
                if given.is_some() {
                    return Err(format!("{key} not allowed for {} type mounts", quote(kind)));
                }
            }
        }
        if kind == "secret" {
            self.check_secret()?;
        }
        if self.sharing.is_some() && kind != "cache" {
            return Err(format!("invalid cache sharing set for {kind} mount"));
        }
        let read_only = self.read_only.unwrap_or(!matches!(kind, "cache" | "tmpfs"));
        let (uid, gid) = (self.uid.unwrap_or(0), self.gid.unwrap_or(0));
        let or = |id: String, default: &str| if id.is_empty() { default.to_owned() } else { id };
        let mut target = self.target;
        let kind = match kind {
            "cache" => MountKind::Cache {
                id: or(self.id, &target),
                sharing: self.sharing.unwrap_or_default(),
                from: self.from,
                source: self.source,
                mode: self.mode.unwrap_or(0o755),
                uid,
                gid,
            },
            "tmpfs" => MountKind::Tmpfs { size: self.size },
            "secret" => {
                let id = or(or(self.source, &self.id), base_name(&target));
                if target.is_empty() && self.env.is_none() {
                    target = format!("/run/secrets/{}", base_name(&id));
                }
                let mode = self.mode.unwrap_or(0o400);
                MountKind::Secret { id, env: self.env, required: self.required, mode, uid, gid }
            }
            "ssh" => MountKind::Ssh {
                id: or(or(self.source, &self.id), "default"),
                required: self.required,
                mode: self.mode.unwrap_or(0o600),
                uid,
                gid,
            },
            _ => MountKind::Bind { from: self.from, source: self.source },
        };
        Ok(Mount { kind, target, read_only })
    }

    fn check_secret(&self) -> Result<(), String> {
        let wrong = if self.from.is_some() {
            "secret mount should not have a from"
        } else if self.sharing.is_some() {
            "secret mount should not define sharing"
        } else if self.source.is_empty() && self.target.is_empty() && self.id.is_empty() {
            "invalid secret mount. one of source, target required"
        } else if !self.source.is_empty() && !self.id.is_empty() {
            "both source and id can't be set"
        } else {
            return Ok(());
        };
        Err(wrong.into())
    }
}

fn sharing(text: &str) -> Result<Sharing, String> {
    match text.to_ascii_lowercase().as_str() {
        "shared" => Ok(Sharing::Shared),
        "private" => Ok(Sharing::Private),
        "locked" => Ok(Sharing::Locked),
        _ => {
            let near = parenthesis(nearest(text, ["shared", "private", "locked"]));
            Err(format!("unsupported sharing value {}{near}", quote(text)))
        }
    }
}

/// What is behind the last slash.
fn base_name(path: &str) -> &str {
    path.trim_end_matches('/').rsplit('/').next().unwrap_or_default()
}

/// The fields of one line of comma-separated values; quotes around a field keep commas.
fn csv(line: &str) -> Result<Vec<String>, String> {
    let mut fields = Vec::new();
    let mut rest = line;
    loop {
        let field;
        if let Some(quoted) = rest.strip_prefix('"') {
            (field, rest) = csv_quoted(quoted)?;
        } else {
            let end = rest.find(',').unwrap_or(rest.len());
            field = rest[..end].to_owned();
            rest = &rest[end..];
            if field.contains('"') {
                return Err("bare \" in non-quoted field".into());
            }
        }
        fields.push(field);
        match rest.strip_prefix(',') {
            Some(more) => rest = more,
            None => return Ok(fields),
        }
    }
}

/// The rest of a field in quotes, and what is behind it.
fn csv_quoted(mut rest: &str) -> Result<(String, &str), String> {
    let mut field = String::new();
    loop {
        let (text, after) = rest.split_once('"').ok_or("extraneous or missing \" in quoted-field")?;
        field.push_str(text);
        match after.strip_prefix('"') {
            Some(more) => {
                field.push('"');
                rest = more;
            }
            None if after.is_empty() || after.starts_with(',') => return Ok((field, after)),
            None => return Err("extraneous or missing \" in quoted-field".into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(text: &str) -> Result<Mount, String> {
        RunMount::parse(text)?.resolve(|value| Ok(value.replace("$V", "/x")))
    }

    #[test]
    fn every_type_has_its_defaults() {
        let bind = resolve("target=/c").expect("bind");
        assert_eq!((bind.target.as_str(), bind.read_only), ("/c", true));
        assert_eq!(bind.kind, MountKind::Bind { from: None, source: String::new() });
        let cache = resolve("type=cache,dst=$V,sharing=locked,mode=0700").expect("cache");
        assert!(!cache.read_only);
        let MountKind::Cache { id, sharing, mode, uid, .. } = cache.kind else { panic!("{cache:?}") };
        assert_eq!((id.as_str(), sharing, mode, uid), ("/x", Sharing::Locked, 0o700, 0));
        let tmpfs = resolve("type=tmpfs,target=/t,size=1m").expect("tmpfs");
        assert_eq!(tmpfs.kind, MountKind::Tmpfs { size: Some(1 << 20) });
        let secret = resolve("type=secret,id=a/b,required").expect("secret");
        assert_eq!(secret.target, "/run/secrets/b");
        let secret = resolve("type=secret,id=s,env=SEC").expect("secret");
        assert_eq!(secret.target, "", "a variable alone");
        let secret = resolve("type=secret,target=/etc/key").expect("secret");
        assert!(matches!(secret.kind, MountKind::Secret { id, mode: 0o400, .. } if id == "key"));
        let ssh = resolve("type=ssh").expect("ssh");
        assert!(matches!(ssh.kind, MountKind::Ssh { id, mode: 0o600, .. } if id == "default"));
    }

    #[test]
    fn wrong_fields_are_named() {
        for (text, why) in [
            ("type=bogus,target=/x", "unsupported mount type \"bogus\""),
            ("type=cach,target=/x", "unsupported mount type \"cach\" (did you mean cache?)"),
            ("type=cache,target=/x,foo=1", "unexpected key 'foo' in 'foo=1' (did you mean from?)"),
            ("target=/x,required", "unexpected key 'required' for mount type 'bind'"),
            ("target=/x,size=1", "unexpected key 'size' for mount type 'bind'"),
            ("target=/x,mode=1", "mode not allowed for \"bind\" type mounts"),
            ("bogus", "invalid field 'bogus' must be a key=value pair"),
            ("from=$X,target=/x", "'from' doesn't support variable expansion, define alias stage instead"),
            ("type=secret", "invalid secret mount. one of source, target required"),
            ("type=secret,id=a,source=b", "both source and id can't be set"),
            ("type=cache,target=/x,mode=9", "invalid value 9 for mode"),
            ("type=cache,target=/x,ro=maybe", "invalid value for ro: maybe"),
            ("type=tmpfs,target=/x,sharing=shared", "invalid cache sharing set for tmpfs mount"),
        ] {
            assert_eq!(resolve(text).expect_err(text), why);
        }
    }

    #[test]
    fn fields_are_comma_separated_values() {
        assert_eq!(csv("a,\"b,c\",\"d\"\"e\"").expect("fields"), ["a", "b,c", "d\"e"]);
        assert!(csv("a\"b").is_err());
        assert!(csv("\"a").is_err());
    }
}
