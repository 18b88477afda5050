//! What registries write, with random damage: no panic, and what is read is sound.

use yare_distribution::challenge;

/// Marsaglia's xorshift64: the same texts on every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % limit as u64).unwrap()
    }
}

/// One of these texts with pieces of others, and of what is written in such texts, put in or taken out.
fn mutated(random: &mut Random, texts: &[String], pieces: &[&str]) -> String {
    let mut text: Vec<char> = texts[random.below(texts.len())].chars().collect();
    for _ in 0..=random.below(5) {
        let at = random.below(text.len() + 1);
        let end = (at + random.below(8)).min(text.len());
        let piece: Vec<char> = match random.below(4) {
            0 => Vec::new(),
            1 => texts[random.below(texts.len())]
                .chars()
                .skip(random.below(20))
                .take(random.below(20))
                .collect(),
            2 => vec![char::from_u32(random.below(0x300) as u32).unwrap()],
            _ => pieces[random.below(pieces.len())].chars().collect(),
        };
        text.splice(at..end, piece);
    }
    text.into_iter().collect()
}

#[test]
fn any_challenge_is_read_or_passed_over() {
    let texts = [
        r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:x:pull,push""#,
        r#"Negotiate, bearer realm=https://a/t , error="insufficient_scope", BASIC realm="x, y""#,
        r#"Basic realm="a\"b\\c""#,
    ]
    .map(str::to_owned);
    let pieces = ["\"", "\\", ",", "=", " ", "Bearer ", "Basic", "realm", "\t", "ü", "\"\"", ",,"];
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut read = 0;
    for _ in 0..20_000 {
        let text = mutated(&mut random, &texts, &pieces);
        for challenge in challenge::parse(&text) {
            read += 1;
            if let challenge::Challenge::Bearer(bearer) = challenge {
                let most = text.len();
                assert!(bearer.realm.len() <= most && bearer.scope.len() <= most, "{text}");
            }
        }
    }
    assert!(read > 5000, "only {read} were read: the damage is too much");
}
