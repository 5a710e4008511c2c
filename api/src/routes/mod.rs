//! The REST API. A handler, its request and answer types and its OpenAPI attribute stand together in one file; adding an
//! endpoint touches that file, one line here, and one test.

pub mod account;
pub mod api_keys;
pub mod artifacts;
pub mod audit;
pub mod auth;
pub mod docs;
pub mod effects;
mod errors;
pub mod health;
pub mod job_kinds;
pub mod job_logs;
pub mod job_socket;
pub mod jobs;
pub mod projections;
pub mod recovery;
pub mod reports;
pub mod schedules;
pub mod secret_changes;
pub mod secrets;
pub mod teams;
pub mod users;
pub mod workers;
pub mod ws_ticket;

use axum::Router;
use axum::routing::get;
use utoipa::openapi::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::App;

/// All routes and the document that describes them.
pub fn routes(app: &App) -> (Router, OpenApi) {
    let (unmounted, _) = api().split_for_parts();
    let (documented, mut openapi) =
        OpenApiRouter::new().nest("/api", api()).merge(operations()).split_for_parts();
    docs::describe(&mut openapi);
    let router = documented
        .nest("/api/v1", unmounted)
        .route("/ws/jobs/{id}", get(job_socket::watch))
        .route("/.well-known/jwks.json", get(auth::jwks))
        .merge(docs::page(&openapi))
        .with_state(app.clone());
    (router, openapi)
}

/// Only what machines ask, for nodes that do not answer people.
pub fn operations_only(app: &App) -> (Router, OpenApi) {
    let health = OpenApiRouter::new().routes(routes!(health::health));
    let (router, openapi) = OpenApiRouter::new().nest("/api", health).merge(operations()).split_for_parts();
    (router.with_state(app.clone()), openapi)
}

/// The versioned part, mounted at `/api` and `/api/v1`.
fn api() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(auth::register))
        .routes(routes!(auth::login))
        .routes(routes!(auth::refresh))
        .routes(routes!(auth::logout))
        .routes(routes!(auth::logout_all))
        .routes(routes!(auth::me, auth::rename_me))
        .routes(routes!(ws_ticket::make_ticket))
        .routes(routes!(account::change_password))
        .routes(routes!(account::sessions))
        .routes(routes!(account::end_session))
        .routes(routes!(account::begin_two_factor, account::disable_two_factor))
        .routes(routes!(account::confirm_two_factor))
        .routes(routes!(recovery::request_reset))
        .routes(routes!(recovery::confirm_reset))
        .routes(routes!(recovery::verify_email))
        .routes(routes!(recovery::resend_verification))
        .routes(routes!(api_keys::make, api_keys::list))
        .routes(routes!(api_keys::revoke))
        .routes(routes!(users::show_in_auth))
        .routes(routes!(users::list))
        .routes(routes!(users::show, users::amend))
        .routes(routes!(users::erase))
        .routes(routes!(teams::show, teams::amend))
        .routes(routes!(teams::change_role, teams::remove))
        .routes(routes!(teams::invite, teams::invitations))
        .routes(routes!(teams::withdraw))
        .routes(routes!(teams::list, teams::make))
        .routes(routes!(teams::join))
        .routes(routes!(secrets::create, secrets::list))
        .routes(routes!(secret_changes::changes))
        .routes(routes!(secrets::show, secrets::amend, secrets::delete))
        .routes(routes!(secrets::restore))
        .routes(routes!(secrets::destroy))
        .routes(routes!(secrets::values::reveal, secrets::values::change_value))
        .routes(routes!(secrets::values::versions))
        .routes(routes!(secrets::access::of_secret))
        .routes(routes!(secrets::grants::grant, secrets::grants::list))
        .routes(routes!(secrets::grants::withdraw))
        .routes(routes!(job_kinds::kinds))
        .routes(routes!(jobs::create, jobs::list))
        .routes(routes!(job_logs::search))
        .routes(routes!(jobs::show))
        .routes(routes!(jobs::many::batch))
        .routes(routes!(jobs::many::bulk))
        .routes(routes!(jobs::changes::pause))
        .routes(routes!(jobs::changes::resume))
        .routes(routes!(jobs::changes::pauses))
        .routes(routes!(jobs::changes::cancel))
        .routes(routes!(jobs::changes::retry))
        .routes(routes!(jobs::changes::attempts))
        .routes(routes!(workers::list))
        .routes(routes!(workers::drain))
        .routes(routes!(workers::resume))
        .routes(routes!(artifacts::list))
        .routes(routes!(artifacts::download))
        .routes(routes!(reports::jobs))
        .routes(routes!(reports::result))
        .routes(routes!(reports::activity::activity))
        .routes(routes!(job_logs::logs))
        .routes(routes!(schedules::create, schedules::list))
        .routes(routes!(schedules::show, schedules::amend, schedules::delete))
        .routes(routes!(schedules::preview))
        .routes(routes!(audit::events))
        .routes(routes!(secrets::access::of_person))
        .routes(routes!(audit::history))
        .routes(routes!(audit::state))
        .routes(routes!(projections::list))
        .routes(routes!(projections::rebuild))
        .routes(routes!(effects::release))
        .routes(routes!(health::health))
}

/// What machines ask, outside the versioned part.
fn operations() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(health::livez))
        .routes(routes!(health::readyz))
        .routes(routes!(health::metrics))
}
