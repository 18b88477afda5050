//! The table of secrets: fixed beginnings, and what must follow.

/// Where a rule holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Everywhere,
    /// Files whose name says that they hold secrets.
    Named,
}

/// How a finding is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// A word.
    Token,
    /// Several lines.
    Block,
}

/// Where a hit stands.
#[derive(Debug, Clone, Copy)]
pub(super) struct Hit<'a> {
    before: &'a [u8],
    after: &'a [u8],
}

#[derive(Debug)]
pub(super) struct Rule {
    pub(super) name: &'static str,
    pub(super) description: &'static str,
    pub(super) prefixes: &'static [&'static str],
    pub(super) place: Place,
    pub(super) form: Form,
    /// Length of the secret behind the prefix, when it is one.
    follows: fn(Hit<'_>) -> Option<usize>,
}

impl Rule {
    pub(super) fn check(&self, bytes: &[u8], start: usize, end: usize) -> Option<usize> {
        (self.follows)(Hit { before: &bytes[..start], after: &bytes[end..] })
    }
}

const fn token(
    name: &'static str,
    description: &'static str,
    prefixes: &'static [&'static str],
    follows: fn(Hit<'_>) -> Option<usize>,
) -> Rule {
    Rule { name, description, prefixes, place: Place::Everywhere, form: Form::Token, follows }
}

/// The rules. A prefix belongs to one rule.
pub(super) const RULES: &[Rule] = &[
    Rule {
        name: "private-key",
        description: "private key",
        prefixes: &["PRIVATE KEY-----", "PRIVATE KEY BLOCK-----", "PuTTY-User-Key-File-"],
        place: Place::Everywhere,
        form: Form::Block,
        follows: private_key,
    },
    token("age-key", "age private key", &["AGE-SECRET-KEY-1"], |hit| hit.word(58..=58, upper_alphanumeric)),
    token("aws-access-key", "AWS access key", &["AKIA", "ASIA"], |hit| hit.word(16..=16, base32)),
    token(
        "aws-secret-key",
        "AWS secret key",
        &["aws_secret_access_key", "AWS_SECRET_ACCESS_KEY", "aws_session_token", "AWS_SESSION_TOKEN"],
        |hit| hit.assigned(40..=4096, base64, 4.0),
    ),
    token("github-token", "GitHub token", &["ghp_", "gho_", "ghu_", "ghs_", "ghr_"], |hit| {
        hit.word(36..=255, alphanumeric)
    }),
    token("github-token-fine", "GitHub token", &["github_pat_"], |hit| hit.word(82..=255, word)),
    token(
        "gitlab-token",
        "GitLab token",
        &["glpat-", "gldt-", "glrt-", "glptt-", "glcbt-", "glsoat-"],
        |hit| hit.word(20..=300, token_byte),
    ),
    token(
        "slack-token",
        "Slack token",
        &["xoxb-", "xoxp-", "xoxa-", "xoxr-", "xoxs-", "xoxe.xox", "xapp-1-"],
        |hit| {
            hit.word(24..=400, token_byte)
                .filter(|length| hit.after[..*length].iter().any(u8::is_ascii_digit))
        },
    ),
    token("slack-webhook", "Slack webhook", &["hooks.slack.com/services/T"], |hit| {
        hit.run(40..=60, |byte| alphanumeric(byte) || byte == b'/', false)
    }),
    token("npm-token", "npm token", &["npm_"], |hit| hit.word(36..=36, alphanumeric)),
    token("pypi-token", "PyPI token", &["pypi-AgEIcHlwaS5vcmc", "pypi-AgENdGVzdC5weXBpLm9yZ"], |hit| {
        hit.word(50..=1000, token_byte)
    }),
    token("google-api-key", "Google API key", &["AIza"], |hit| hit.word(35..=35, token_byte)),
    token("stripe-key", "Stripe secret key", &["sk_live_", "rk_live_"], |hit| {
        hit.word(20..=250, alphanumeric)
    }),
    token("sendgrid-key", "SendGrid key", &["SG."], |hit| {
        let length = hit.run(66..=66, |byte| token_byte(byte) || byte == b'.', true)?;
        (hit.after[22] == b'.').then_some(length)
    }),
    token("openai-key", "OpenAI key", &["sk-proj-", "sk-svcacct-"], |hit| hit.word(40..=300, token_byte)),
    token("anthropic-key", "Anthropic key", &["sk-ant-"], |hit| hit.word(80..=300, token_byte)),
    token("huggingface-token", "Hugging Face token", &["hf_"], |hit| hit.word(34..=34, alphabetic)),
    token("digitalocean-token", "DigitalOcean token", &["dop_v1_", "doo_v1_"], |hit| hit.word(64..=64, hex)),
    token("shopify-token", "Shopify token", &["shpat_", "shpss_", "shppa_"], |hit| hit.word(32..=32, hex)),
    token("vault-token", "Vault token", &["hvs.", "hvb."], |hit| hit.word(90..=300, token_byte)),
    token("docker-token", "Docker Hub token", &["dckr_pat_", "dckr_oat_"], |hit| {
        hit.word(27..=40, token_byte)
    }),
    token("kubeconfig-key", "client key of a kubeconfig", &["client-key-data:"], |hit| {
        hit.assigned(100..=8000, base64, 4.0)
    }),
    Rule {
        name: "docker-auth",
        description: "password of a registry",
        prefixes: &["\"auth\""],
        place: Place::Named,
        form: Form::Token,
        follows: docker_auth,
    },
    Rule {
        name: "npmrc-token",
        description: "token of an npm registry",
        prefixes: &["_authToken", "_password"],
        place: Place::Named,
        form: Form::Token,
        follows: |hit| hit.assigned(16..=1000, printable, 3.0),
    },
    Rule {
        name: "netrc-password",
        description: "password of a host",
        prefixes: &["password "],
        place: Place::Named,
        form: Form::Token,
        follows: |hit| {
            hit.run(6..=200, printable, false).filter(|length| !placeholder(&hit.after[..*length]))
        },
    },
    Rule {
        name: "url-password",
        description: "password in an address",
        prefixes: &["https://", "http://"],
        place: Place::Named,
        form: Form::Token,
        follows: url_password,
    },
    Rule {
        name: "assignment",
        description: "secret in an environment file",
        prefixes: &[
            "SECRET",
            "TOKEN",
            "PASSWORD",
            "PASSWD",
            "API_KEY",
            "APIKEY",
            "PRIVATE_KEY",
            "ACCESS_KEY",
            "CREDENTIALS",
            "ENCRYPTION_KEY",
            "SIGNING_KEY",
        ],
        place: Place::Named,
        form: Form::Token,
        follows: |hit| hit.assigned(12..=1000, printable, 3.2),
    },
];

impl Hit<'_> {
    /// A word of this length that stands by itself.
    fn word(self, length: std::ops::RangeInclusive<usize>, member: fn(u8) -> bool) -> Option<usize> {
        self.run(length, member, true)
    }

    fn run(
        self,
        length: std::ops::RangeInclusive<usize>,
        member: impl Fn(u8) -> bool,
        alone: bool,
    ) -> Option<usize> {
        if alone && self.before.last().copied().is_some_and(word) {
            return None;
        }
        let run = self.after.iter().take_while(|byte| member(**byte)).count();
        // A longer run of letters is another word, whatever its members may be.
        let next = self.after.get(run).copied();
        let closed = !alone || next.is_none_or(|byte| !alphanumeric(byte));
        (length.contains(&run) && closed && varied(&self.after[..run])).then_some(run)
    }

    /// `= value`, `: value`, quoted or not, behind the rest of the name.
    fn assigned(
        self,
        length: std::ops::RangeInclusive<usize>,
        member: fn(u8) -> bool,
        entropy: f64,
    ) -> Option<usize> {
        let name = self.after.iter().take_while(|byte| word(**byte)).count().min(40);
        let rest = &self.after[name..];
        let gap = rest.iter().take(8).take_while(|byte| b" \t\"'=:>".contains(byte)).count();
        let sign = rest[..gap].iter().any(|byte| b"=:".contains(byte));
        // The prefix of a kubeconfig's key ends with the colon itself.
        if !sign && !self.before.is_empty() && name == 0 && gap == 0 {
            return None;
        }
        let value = &rest[gap..];
        let run = value.iter().take_while(|byte| member(**byte) && !b"\"'".contains(byte)).count();
        let value = &value[..run];
        let fits = length.contains(&run) && !placeholder(value) && entropy_of(value) >= entropy;
        (fits && (sign || gap > 0)).then_some(name + gap + run)
    }
}

/// The body must be there: documents that only speak of keys have none.
fn private_key(hit: Hit<'_>) -> Option<usize> {
    let line = hit.before.iter().rposition(|byte| b"\n\"'`(".contains(byte)).map_or(0, |place| place + 1);
    let begin = &hit.before[line.max(hit.before.len().saturating_sub(200))..];
    let putty = hit.after.starts_with(b"2:") || hit.after.starts_with(b"3:");
    if !putty && memchr::memmem::find(begin, b"-----BEGIN ").is_none() {
        return None;
    }
    // Headers of encrypted keys (`Proc-Type`), line breaks of JSON strings and the like stand between.
    let seen = &hit.after[..hit.after.len().min(4096)];
    let end = memchr::memmem::find(seen, b"-----END").unwrap_or(seen.len());
    let (mut run, mut body) = (0, 0);
    let text = &seen[..end];
    let mut place = 0;
    while let Some(&byte) = text.get(place) {
        let escaped = byte == b'\\' && text.get(place + 1).is_some_and(|next| b"nr".contains(next));
        match byte {
            _ if escaped => place += 1,
            byte if base64(byte) => run += 1,
            b'\n' | b'\r' => {}
            _ => run = 0,
        }
        body = body.max(run);
        place += 1;
    }
    (body >= 64 && varied(text)).then_some(end)
}

/// `"auth": "<base64 of user:password>"`.
fn docker_auth(hit: Hit<'_>) -> Option<usize> {
    use base64::Engine;
    let gap = hit.after.iter().take(8).take_while(|byte| b" \t\n:\"".contains(byte)).count();
    let value = &hit.after[gap..];
    let value = &value[..value.iter().take_while(|byte| base64(**byte)).count()];
    let decoded = base64::engine::general_purpose::STANDARD.decode(value).ok()?;
    let (user, password) = decoded.split_at(decoded.iter().position(|byte| *byte == b':')?);
    let text = decoded.iter().all(|byte| printable(*byte));
    (text && !user.is_empty() && password.len() > 4).then_some(gap + value.len())
}

/// `user:password@` behind the scheme.
fn url_password(hit: Hit<'_>) -> Option<usize> {
    let run = hit.after.iter().take(300).take_while(|byte| printable(**byte) && **byte != b'/').count();
    let authority = &hit.after[..run];
    let at = authority.iter().rposition(|byte| *byte == b'@')?;
    let colon = authority.iter().position(|byte| *byte == b':').filter(|colon| *colon < at)?;
    let password = &authority[colon + 1..at];
    (password.len() >= 6 && !placeholder(password)).then_some(at)
}

/// The kind of key store that a file with this beginning is.
pub(super) fn is_key_store(name: &str, start: &[u8]) -> Option<&'static str> {
    // A Java key store whose first entry is a private key; one of certificates begins with tag 2.
    if start.starts_with(&[0xfe, 0xed, 0xfe, 0xed, 0, 0, 0, 2]) && start.get(12..16) == Some(&[0, 0, 0, 1]) {
        return Some("Java key store with a private key");
    }
    let lower = name.to_ascii_lowercase();
    let pkcs12 =
        start.first_chunk::<7>().is_some_and(|head| head[..2] == [0x30, 0x82] && head[4..] == [2, 1, 3]);
    if pkcs12 && (lower.ends_with(".p12") || lower.ends_with(".pfx")) {
        return Some("PKCS #12 key store");
    }
    None
}

fn alphanumeric(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
}

fn alphabetic(byte: u8) -> bool {
    byte.is_ascii_alphabetic()
}

fn upper_alphanumeric(byte: u8) -> bool {
    byte.is_ascii_uppercase() || byte.is_ascii_digit()
}

fn base32(byte: u8) -> bool {
    byte.is_ascii_uppercase() || (b'2'..=b'7').contains(&byte)
}

fn hex(byte: u8) -> bool {
    byte.is_ascii_hexdigit()
}

fn word(byte: u8) -> bool {
    alphanumeric(byte) || byte == b'_'
}

fn token_byte(byte: u8) -> bool {
    word(byte) || byte == b'-'
}

fn base64(byte: u8) -> bool {
    alphanumeric(byte) || b"+/=".contains(&byte)
}

fn printable(byte: u8) -> bool {
    byte.is_ascii_graphic()
}

/// Values that stand for one: variables, marks to be replaced.
fn placeholder(value: &[u8]) -> bool {
    let text = String::from_utf8_lossy(value).to_ascii_lowercase();
    let starts = ["$", "<", "{", "%", "xxx", "***", "..."].iter().any(|mark| text.starts_with(mark));
    let words =
        ["change", "example", "your", "replace", "placeholder", "dummy", "secret", "password", "${", "{{"];
    starts || words.iter().any(|word| text.contains(word))
}

/// Whether the bytes are of many kinds, as random ones are; documents write `xxxx`.
fn varied(bytes: &[u8]) -> bool {
    let mut seen = [false; 256];
    bytes.iter().for_each(|byte| seen[usize::from(*byte)] = true);
    seen.iter().filter(|seen| **seen).count() >= (bytes.len() / 3).min(8)
}

/// Shannon's entropy in bits a byte.
fn entropy_of(bytes: &[u8]) -> f64 {
    let mut counts = [0_u32; 256];
    bytes.iter().for_each(|byte| counts[usize::from(*byte)] += 1);
    let total = bytes.len() as f64;
    let share = counts.iter().filter(|count| **count > 0).map(|count| f64::from(*count) / total);
    share.map(|share| -share * share.log2()).sum()
}
