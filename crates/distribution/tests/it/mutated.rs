//! What registries write, with random damage: no panic, and what is read is sound.

use yare_damage::Random;
use yare_distribution::challenge;

#[test]
fn any_challenge_is_read_or_passed_over() {
    let texts = [
        r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:x:pull,push""#,
        r#"Negotiate, bearer realm=https://a/t , error="insufficient_scope", BASIC realm="x, y""#,
        r#"Basic realm="a\"b\\c""#,
    ]
    .map(str::to_owned);
    let pieces = ["\"", "\\", ",", "=", " ", "Bearer ", "Basic", "realm", "\t", "ü", "\"\"", ",,"];
    let mut random = Random::default();
    let mut read = 0;
    for _ in 0..20_000 {
        let text = random.damaged(&texts, &pieces);
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
