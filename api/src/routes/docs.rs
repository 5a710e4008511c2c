//! The OpenAPI document and a page that shows it and loads nothing from elsewhere.

use axum::Router;
use axum::http::StatusCode;
use axum::middleware::map_response;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{
    Components, ContactBuilder, InfoBuilder, LicenseBuilder, OpenApi, SecurityRequirement,
};
use utoipa_swagger_ui::{Config, SwaggerUi};

use super::errors;
use crate::app::App;
use crate::problem::Problem;

/// Name of the security scheme in the document.
const BEARER: &str = "bearer";

/// Says what the document is about, and that every operation needs a token unless it says otherwise.
pub fn describe(openapi: &mut OpenApi) {
    openapi.info = InfoBuilder::new()
        .title("Daybook")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(format!(
            "A self-hosted back office: users, secrets and jobs on one event log that can be replayed, read as of any \
             moment and audited. Errors are RFC 9457 problems. `/api/v1/...` is the same as `/api/...`.\n\n{}",
            super::job_socket::DESCRIPTION,
        )))
        .license(Some(LicenseBuilder::new().name("Apache-2.0").identifier(Some("Apache-2.0")).build()))
        .contact(Some(ContactBuilder::new().name(Some("Daybook")).build()))
        .build();
    let scheme = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).bearer_format("JWT").build();
    let components = openapi.components.get_or_insert_with(Components::new);
    components.add_security_scheme(BEARER, SecurityScheme::Http(scheme));
    let paths = std::mem::take(&mut openapi.paths.paths);
    // The document has no way of saying that a parameter is the rest of a path.
    openapi.paths.paths = paths.into_iter().map(|(path, item)| (path.replace("{*", "{"), item)).collect();
    errors::document(openapi);
    openapi.security = Some(vec![SecurityRequirement::new(BEARER, Vec::<String>::new())]);
}

/// `/openapi.json` and `/docs`.
pub fn page(openapi: &OpenApi) -> Router<App> {
    let document = serde_json::to_value(openapi).unwrap_or_default();
    // Without a word about it the page has the document checked by a server of its makers.
    let ui = SwaggerUi::new("/docs").config(Config::from("/openapi.json").validator_url("none"));
    let ui = Router::from(ui).layer(map_response(not_found_as_a_problem));
    Router::new()
        .route("/openapi.json", get(move || std::future::ready(axum::Json(document.clone()))))
        .merge(ui)
}

/// The page's own 404 is empty.
async fn not_found_as_a_problem(response: Response) -> Response {
    if response.status() == StatusCode::NOT_FOUND { Problem::not_found().into_response() } else { response }
}
