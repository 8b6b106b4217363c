//! Bookmarks: events under names, and sent again as tests.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use serde_json::{Value, json};

use super::auth::Scope;
use super::extract::{Json, Path, Query, TenantOnly};
use super::views::{BookmarkView, SentView, to_json};
use super::{Api, Problem};
use crate::control::bookmarks::{BookmarkSpec, SendSpec};

type Answer = Result<Response, Problem>;

pub(super) async fn list(State(api): State<Api>, scope: Scope, _: Query<TenantOnly>) -> Answer {
    let bookmarks = api.0.control.bookmarks(&scope.homes).await?;
    let items: Vec<Value> = bookmarks.iter().map(|(name, head)| to_json(&BookmarkView::of(name, head))).collect();
    Ok(axum::Json(json!({ "items": items, "next": null })).into_response())
}

pub(super) async fn create(State(api): State<Api>, scope: Scope, _: Query<TenantOnly>, body: Json<BookmarkSpec>) -> Answer {
    let again = body.again(scope.access, &format!("{}/bookmark", scope.homes.tenant));
    let (name, bookmark) = api.0.control.create_bookmark(&scope.homes, &body.value, &scope.by, again.as_ref()).await?;
    Ok((StatusCode::CREATED, axum::Json(BookmarkView::of(&name, &bookmark.head))).into_response())
}

pub(super) async fn show(State(api): State<Api>, scope: Scope, Path([name]): Path<1>, _: Query<TenantOnly>) -> Answer {
    let (name, bookmark) = api.0.control.bookmark(&scope.homes, &name).await?;
    Ok(axum::Json(BookmarkView::of(&name, &bookmark.head).with(&bookmark.event.request)).into_response())
}

pub(super) async fn delete(State(api): State<Api>, scope: Scope, Path([name]): Path<1>, _: Query<TenantOnly>) -> Answer {
    api.0.control.delete_bookmark(&scope.homes, &name).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

pub(super) async fn send(
    State(api): State<Api>,
    scope: Scope,
    Path([name]): Path<1>,
    _: Query<TenantOnly>,
    body: Json<SendSpec>,
) -> Answer {
    let id = api.0.control.send_bookmark(&scope.homes, &name, &body.value).await?;
    Ok((StatusCode::ACCEPTED, axum::Json(SentView::of(id))).into_response())
}
