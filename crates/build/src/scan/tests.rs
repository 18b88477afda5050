use super::*;
use std::os::fd::AsFd;

fn scan_as(path: &str, text: &str) -> Vec<Finding> {
    Scanner::new().unwrap().scan(path, &mut text.as_bytes(), &mut 0).unwrap()
}

fn rules(path: &str, text: &str) -> Vec<&'static str> {
    scan_as(path, text).into_iter().map(|finding| finding.rule).collect()
}

/// Characters that look random and are the same in every run. Put together here, so that this file holds
/// nothing that another scanner would find.
fn noise(length: usize, alphabet: &str) -> String {
    let letters: Vec<char> = alphabet.chars().collect();
    let mut random = yare_damage::Random::default();
    (0..length).map(|_| *random.one(&letters)).collect()
}

const ALPHANUMERIC: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
const BASE32: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";

fn pem(kind: &str) -> String {
    let body = noise(640, ALPHANUMERIC);
    let lines: Vec<&str> =
        body.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN {kind}PRIVATE KEY-----\n{}\n-----END {kind}PRIVATE KEY-----\n", lines.join("\n"))
}

#[test]
fn every_kind_of_token() {
    let alnum = |length| noise(length, ALPHANUMERIC);
    let cases = [
        ("aws-access-key", format!("AKIA{}", noise(16, BASE32))),
        ("aws-secret-key", format!("aws_secret_access_key = {}", alnum(40))),
        ("github-token", format!("ghp_{}", alnum(36))),
        ("github-token-fine", format!("github_pat_{}_{}", alnum(22), alnum(59))),
        ("gitlab-token", format!("glpat-{}", alnum(20))),
        ("slack-token", format!("xoxb-{}-{}", noise(12, "0123456789"), alnum(24))),
        (
            "slack-webhook",
            format!(
                "https://hooks.slack.com/services/T{}/B{}/{}",
                noise(8, BASE32),
                noise(8, BASE32),
                alnum(24)
            ),
        ),
        ("npm-token", format!("npm_{}", alnum(36))),
        ("pypi-token", format!("pypi-AgEIcHlwaS5vcmc{}", alnum(120))),
        ("google-api-key", format!("AIza{}", alnum(35))),
        ("stripe-key", format!("sk_live_{}", alnum(24))),
        ("sendgrid-key", format!("SG.{}.{}", alnum(22), alnum(43))),
        ("openai-key", format!("sk-proj-{}", alnum(48))),
        ("anthropic-key", format!("sk-ant-api03-{}", alnum(95))),
        ("huggingface-token", format!("hf_{}", noise(34, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJ"))),
        ("digitalocean-token", format!("dop_v1_{}", noise(64, "0123456789abcdef"))),
        ("docker-token", format!("dckr_pat_{}", alnum(27))),
        ("age-key", format!("AGE-SECRET-KEY-1{}", noise(58, "QPZRY9X8GF2TVDW0S3JN54KHCE6MUA7L"))),
        ("kubeconfig-key", format!("    client-key-data: {}", alnum(600))),
        ("private-key", pem("RSA ")),
        ("private-key", pem("")),
        ("private-key", pem("OPENSSH ").replace('\n', "\\n")),
    ];
    for (rule, text) in cases {
        let findings = scan_as("/app/config.yaml", &format!("one\ntwo = \"{text}\"\n"));
        assert_eq!(findings.len(), 1, "{rule}: {findings:?}");
        assert_eq!((findings[0].rule, findings[0].line), (rule, 2));
        let tail = &text[text.len() - 12..];
        assert!(!findings[0].excerpt.contains(tail), "{rule} shows the secret: {}", findings[0]);
    }
}

#[test]
fn what_only_looks_like_a_secret() {
    let innocent = [
        "key = AKIAIOSFODNN7EXAMPLE",
        "AKIA is the prefix of keys, ASIANPAINTSCOMPANIESLIMITED is none",
        "ghp_xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
        "export TOKEN=ghp_$(cat /run/secrets/token)",
        "-----BEGIN RSA PRIVATE KEY-----\n...\n-----END RSA PRIVATE KEY-----",
        "if 'PRIVATE KEY-----' in text: raise ValueError",
        "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----",
        "npm_config_registry=https://registry.npmjs.org/aaaaaaaaaaaaaa",
        "aws_secret_access_key = ${AWS_SECRET_ACCESS_KEY}",
        "PASSWORD=hunter2hunter2hunter2",
    ];
    for text in innocent {
        assert_eq!(rules("/app/readme.md", text), Vec::<&str>::new(), "{text}");
    }
    // Base64 may hold the letters of a prefix; it goes on on both sides.
    let base64 = noise(1 << 20, ALPHANUMERIC);
    assert_eq!(rules("/app/data.b64", &base64), Vec::<&str>::new());
}

#[test]
fn files_that_are_there_for_secrets() {
    let value = noise(24, ALPHANUMERIC);
    let assignment = format!("# production\nDB_PASSWORD=\"{value}\"\nDEBUG=true\n");
    assert_eq!(rules("/app/.env", &assignment), ["assignment"]);
    assert_eq!(rules("/app/.env.example", &assignment), Vec::<&str>::new());
    assert_eq!(rules("/app/main.py", &assignment), Vec::<&str>::new());
    assert_eq!(
        rules("/app/.env", "API_KEY=your-key-goes-here\nTOKEN=${TOKEN}\nSECRET=\n"),
        Vec::<&str>::new()
    );
    // "me:s3cretpass"
    let auths = "{\"auths\": {\"r.example.invalid\": {\"auth\": \"bWU6czNjcmV0cGFzcw==\"}}}";
    assert_eq!(rules("/root/.docker/config.json", auths), ["docker-auth"]);
    assert_eq!(rules("/root/.docker/config.json", "{\"auth\": \"basic\"}"), Vec::<&str>::new());
    let login = format!("machine h login me password {value}\n");
    assert_eq!(rules("/root/.netrc", &login), ["netrc-password"]);
    assert_eq!(rules("/root/.git-credentials", &format!("https://me:{value}@h\n")), ["url-password"]);
    assert_eq!(rules("/app/.npmrc", &format!("//r/:_authToken={value}{value}\n")), ["npmrc-token"]);
}

#[test]
fn binary_files_are_passed_over_but_for_key_stores() {
    let token = format!("ghp_{}", noise(36, ALPHANUMERIC));
    assert_eq!(rules("/bin/x", &format!("\x7fELF\0{token}")), Vec::<&str>::new());
    let scanner = Scanner::new().unwrap();
    let scan = |name, bytes: &[u8]| scanner.scan(name, &mut &bytes[..], &mut 0).unwrap().len();
    let store = [0xfe, 0xed, 0xfe, 0xed, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 1, 0];
    assert_eq!(scan("/a/keys.jks", &store), 1);
    let mut trust = store;
    trust[15] = 2;
    assert_eq!(scan("/a/trust.jks", &trust), 0);
    assert_eq!(scan("/a/me.p12", &[0x30, 0x82, 9, 9, 2, 1, 3, 0]), 1);
    assert_eq!(scan("/a/cacerts", &[0x30, 0x82, 9, 9, 2, 1, 3, 0]), 0);
}

/// Gives a few bytes at a time.
struct Trickle<'a>(&'a [u8], usize);

impl Read for Trickle<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.1.min(self.0.len()).min(buffer.len());
        let (now, later) = self.0.split_at(count);
        buffer[..count].copy_from_slice(now);
        self.0 = later;
        Ok(count)
    }
}

#[test]
fn secrets_at_any_place_of_a_stream() {
    let scanner = Scanner::new().unwrap();
    let token = format!(" ghp_{} ", noise(36, ALPHANUMERIC));
    let line = "all work and no play makes Jack a dull boy\n";
    for place in [0, 1, BEGINNING - 20, WINDOW - REACH, WINDOW - 20, WINDOW, 3 * WINDOW - 5] {
        let mut text = line.repeat(4 * WINDOW / line.len() + 1);
        text.insert_str(place, &token);
        let expected = 1 + text[..place].matches('\n').count() as u64;
        for step in [usize::MAX, 7919] {
            let (mut read, mut source) = (0, Trickle(text.as_bytes(), step));
            let found = scanner.scan("/x", &mut source, &mut read).unwrap();
            let found: Vec<_> = found.iter().map(|finding| finding.line).collect();
            assert_eq!((found, read), (vec![expected], text.len() as u64), "{place} {step}");
        }
    }
}

#[test]
fn a_tree_with_links_and_test_data() {
    let tree = tempfile::tempdir().unwrap();
    let at = |path: &str| {
        let path = tree.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        path
    };
    std::fs::write(at("id_rsa"), pem("RSA ")).unwrap();
    std::fs::write(at("usr/share/doc/x/key.pem"), pem("")).unwrap();
    std::fs::write(at("usr/lib/python3.13/test/keycert.pem"), pem("")).unwrap();
    std::fs::write(at("usr/lib/python3.13/site.pem"), pem("EC ")).unwrap();
    std::os::unix::fs::symlink(tree.path().join("id_rsa"), at("link")).unwrap();
    let dir = std::fs::File::open(tree.path()).unwrap();
    let report =
        Scanner::new().unwrap().scan_tree(dir.as_fd(), "/srv", &HashSet::new(), &Cancel::default()).unwrap();
    let paths: Vec<_> = report.findings.iter().map(|finding| finding.path.as_str()).collect();
    assert_eq!(paths, ["/srv/id_rsa", "/srv/usr/lib/python3.13/site.pem", "/srv/usr/share/doc/x/key.pem"]);
    let report =
        Scanner::new().unwrap().scan_tree(dir.as_fd(), "", &HashSet::new(), &Cancel::default()).unwrap();
    let paths: Vec<_> = report.findings.iter().map(|finding| finding.path.as_str()).collect();
    assert_eq!(paths, ["/id_rsa", "/usr/lib/python3.13/site.pem"]);
    assert_eq!((report.files, report.more), (2, false));
}

/// Speed and false alarms on the machine that runs it: `--ignored --nocapture`.
#[test]
#[ignore = "measures this machine"]
fn a_whole_machine() {
    let scanner = Scanner::new().unwrap();
    let text = "the quick brown fox jumps over 12 lazy dogs = \"value\";\n".repeat(4 << 20);
    let begun = std::time::Instant::now();
    scanner.scan("/x", &mut text.as_bytes(), &mut 0).unwrap();
    let rate = text.len() as f64 / begun.elapsed().as_secs_f64() / 1e6;
    println!("{rate:.0} MB/s over {} MB of text", text.len() / 1_000_000);
    for place in ["/usr", "/etc"] {
        let (dir, begun) = (std::fs::File::open(place).unwrap(), std::time::Instant::now());
        let report = scanner.scan_tree(dir.as_fd(), place, &HashSet::new(), &Cancel::default()).unwrap();
        report.findings.iter().for_each(|finding| println!("{finding}"));
        println!("{place}: {} files, {} MB in {:?}", report.files, report.bytes / 1_000_000, begun.elapsed());
    }
}
