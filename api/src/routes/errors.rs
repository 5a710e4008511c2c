//! The errors that an operation has because of where it stands, for the OpenAPI document: a handler's own attribute tells only
//! what is special about it.

use utoipa::openapi::path::{Operation, PathItem};
use utoipa::openapi::request_body::RequestBody;
use utoipa::openapi::{ContentBuilder, OpenApi, Ref, RefOr, Required, Response, ResponseBuilder, Schema};

const JSON: &str = "application/json";
const PROBLEM: &str = "application/problem+json";
const PROBLEM_SCHEMA: &str = "#/components/schemas/Problem";

/// Adds them, gives problems their content type, and makes the operations' ids unique: tag and name.
pub(super) fn document(openapi: &mut OpenApi) {
    for (path, item) in &mut openapi.paths.paths {
        for operation in operations(item) {
            name(operation);
            operation.request_body.iter_mut().for_each(may_be_left_out);
            for (status, description) in errors(path, operation) {
                let responses = &mut operation.responses.responses;
                responses.entry(status.to_owned()).or_insert_with(|| RefOr::T(problem(description)));
            }
            operation.responses.responses.values_mut().for_each(mark);
        }
    }
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    let PathItem { get, put, post, delete, patch, .. } = item;
    [get, put, post, delete, patch].into_iter().flatten()
}

fn name(operation: &mut Operation) {
    let tag = operation.tags.as_ref().and_then(|tags| tags.first());
    if let (Some(tag), Some(id)) = (tag, &operation.operation_id) {
        operation.operation_id = Some(format!("{tag}_{id}"));
    }
}

/// What a handler's attribute calls an `Option` is a body that may be left out. It is never null, as the attribute would have it.
fn may_be_left_out(body: &mut RefOr<RequestBody>) {
    let RefOr::T(body) = body else { return };
    for content in body.content.values_mut() {
        let RefOr::T(content) = content else { continue };
        let Some(RefOr::T(Schema::OneOf(either))) = &content.schema else { continue };
        let itself = either.items.iter().find(|item| matches!(item, RefOr::Ref(_))).cloned();
        if itself.is_some() {
            content.schema = itself;
            body.required = Some(Required::False);
        }
    }
}

fn errors(path: &str, operation: &Operation) -> Vec<(&'static str, &'static str)> {
    let mut errors = vec![];
    // Public operations say so by an empty requirement of their own.
    if operation.security.is_none() {
        errors.extend([
            ("401", "No access token, or not a good one"),
            ("404", "No such team, or nothing there"),
            ("429", "Too many requests; see Retry-After"),
            ("503", "Not available for the moment; see Retry-After"),
            ("504", "The views have not reached Daybook-Position in time"),
        ]);
        if !path.starts_with("/api/auth/") {
            errors.push(("403", "A permission is missing"));
        }
    } else if path.starts_with("/api/auth/") {
        errors.extend([
            ("429", "Too many requests; see Retry-After"),
            ("503", "Not available for the moment; see Retry-After"),
        ]);
    }
    if operation.request_body.is_some() {
        errors.extend([
            ("400", "The body is not JSON"),
            ("413", "The body is over 1 MiB"),
            ("415", "The body is not application/json by its own account"),
        ]);
    }
    if operation.request_body.is_some() || operation.security.is_none() {
        errors.push(("422", "A field, a parameter or a header is wrong"));
    }
    errors
}

fn problem(description: &str) -> Response {
    let schema = RefOr::Ref(Ref::new(PROBLEM_SCHEMA));
    let content = ContentBuilder::new().schema(Some(schema)).build();
    ResponseBuilder::new().description(description).content(PROBLEM, content).build()
}

/// The attribute calls every body `application/json`.
fn mark(response: &mut RefOr<Response>) {
    let RefOr::T(response) = response else { return };
    let is_problem = |content: &RefOr<utoipa::openapi::Content>| match content {
        RefOr::T(content) => {
            matches!(&content.schema, Some(RefOr::Ref(schema)) if schema.ref_location == PROBLEM_SCHEMA)
        }
        RefOr::Ref(_) => false,
    };
    if response.content.get(JSON).is_some_and(is_problem)
        && let Some(content) = response.content.shift_remove(JSON)
    {
        response.content.insert(PROBLEM.to_owned(), content);
    }
}
