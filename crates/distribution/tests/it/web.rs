//! Plain downloads.

use crate::fake::{Fake, Fault, settings};
use http::Method;
use yare_distribution::Client;
use yare_errdefs::chain;

#[tokio::test]
async fn a_password_in_an_address_is_for_its_own_host() {
    let (first, second) = (Fake::start().await, Fake::start().await);
    let leads = |to: String| Fault::Answer(302, vec![("location", to)], String::new());
    first.fault(Method::GET, "/a", 1, leads("/b".to_owned()));
    first.fault(Method::GET, "/b", 1, leads(second.url("/c")));
    second.page("/c", "content");
    let client = Client::new(settings());
    let address = format!("http://user:p%40ss@{}/a?x=secret", first.authority());
    let mut page = client.download(&address, &[]).await.unwrap();
    assert_eq!((page.status(), page.chunk().await.unwrap().unwrap().as_ref()), (200, b"content".as_slice()));
    let shown = |fake: &Fake| {
        let seen = fake.seen();
        seen.iter()
            .map(|seen| (seen.line(), seen.header("authorization").map(str::to_owned)))
            .collect::<Vec<_>>()
    };
    let login = Some("Basic dXNlcjpwQHNz".to_owned());
    assert_eq!(shown(&first), [("GET /a?x=secret".to_owned(), login.clone()), ("GET /b".to_owned(), login)]);
    assert_eq!(shown(&second), [("GET /c".to_owned(), None)]);
    assert_eq!(first.seen()[0].header("host"), Some(first.authority().as_str()));
    // It is in no error.
    first.fault(Method::GET, "/a", 9, Fault::Drop);
    let error = chain(&client.download(&address, &[]).await.unwrap_err());
    assert!(
        error.contains(&first.url("/a")) && !error.contains("ss@") && !error.contains("secret"),
        "{error}"
    );
}
