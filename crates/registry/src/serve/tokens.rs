//! The token endpoint: `GET /token` as docker asks, `POST /token` as OAuth2 clients do.

use super::intake::Intake;
use super::query::Query;
use super::reply::{Reply, json};
use super::service::{Call, Service};
use crate::access::Caller;
use crate::clock::now;
use crate::problem::{Code, Error, Refusal, Result};
use crate::token::Scope;
use http::header::{self, HeaderValue};
use http::{Method, StatusCode};
use serde_json::json;

/// The most bytes of a form, and the most scopes.
const FORM: usize = 64 << 10;
const SCOPES: usize = 64;

/// Issues a token for as much as the caller may do of what it asks for.
pub(crate) async fn issue(service: &Service, call: &Call, intake: &mut Intake) -> Result<Reply> {
    let Some(tokens) = service.auth.tokens.as_ref().filter(|tokens| tokens.issues()) else {
        return Err(Refusal::new(Code::Unsupported, "this registry issues no tokens")
            .with_status(StatusCode::NOT_FOUND)
            .into());
    };
    let (query, caller) = match call.parts.method {
        Method::POST => {
            let too_large = |_| Refusal::new(Code::SizeInvalid, "the form is too large");
            let form = intake.whole(FORM, too_large).await?;
            let form = Query::parse(&String::from_utf8_lossy(&form).replace('+', " "));
            let caller = by_form(service, call, &form).await?;
            (form, caller)
        }
        _ => (call.query.clone(), call.caller.clone()),
    };
    if query.get("service").is_some_and(|asked| asked != tokens.service) {
        let message = format!("tokens are issued for service {} only", tokens.service);
        return Err(Refusal::new(Code::Denied, message).with_status(StatusCode::BAD_REQUEST).into());
    }
    let scopes: Vec<Scope> = query
        .all("scope")
        .flat_map(|scopes| scopes.split([' ', '+']))
        .filter_map(Scope::parse)
        .take(SCOPES)
        .collect();
    let issued = tokens
        .issue(&caller, &scopes, &service.auth.policy, now())
        .ok_or_else(|| yare_errdefs::Error::internal("cannot make a token"))?;
    let mut value = json!({
        "token": issued.token,
        "access_token": issued.token,
        "token_type": "Bearer",
        "expires_in": issued.expires_in,
        "issued_at": crate::events::rfc3339(now()),
    });
    // As docker's `GET` and its form ask for one.
    let stays = query.get("offline_token") == Some("true") || query.get("access_type") == Some("offline");
    if let Some(refresh) = stays.then(|| service.auth.refresh_token(&caller)).flatten() {
        value["refresh_token"] = json!(refresh);
    }
    let mut reply = json(&value, "application/json")?;
    reply.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(reply)
}

/// Who asks by a form: user and password are in it, or a refresh token.
async fn by_form(service: &Service, call: &Call, form: &Query) -> Result<Caller> {
    match form.get("grant_type") {
        Some("password") => {
            let (user, password) = (given(form, "username")?, given(form, "password")?);
            service.auth.by_password(user.to_owned(), password, &call.peer).await
        }
        Some("refresh_token") => service.auth.by_refresh_token(given(form, "refresh_token")?, &call.peer),
        _ => Err(misasked("grant_type must be password or refresh_token")),
    }
}

/// A field that has to be in a form.
fn given<'a>(form: &'a Query, name: &str) -> Result<&'a str> {
    form.get(name).ok_or_else(|| misasked(&format!("the form has no {name}")))
}

fn misasked(message: &str) -> Error {
    Refusal::new(Code::Unsupported, message).with_status(StatusCode::BAD_REQUEST).into()
}
