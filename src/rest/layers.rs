//! The middleware, one file per layer. [`super::finished`] has their order and the reasons for it.

mod authorize;
mod bound_body;
mod catch_panic;
mod compress;
mod cors;
mod hosts;
mod no_query;
mod observe;
mod plain_body;
mod render_failures;
mod request_id;
mod set_context;

pub use self::hosts::{Hosts, OverUnixSocket};
pub(super) use self::{
    authorize::authorize,
    bound_body::{BodyError, BodyShare, bound_body},
    catch_panic::catch_panic,
    compress::{compress, plain_unless_named},
    cors::cors,
    hosts::check_host,
    no_query::no_query,
    observe::{UNMATCHED, observe},
    plain_body::plain_body,
    render_failures::render_failures,
    request_id::carry_request_id,
    set_context::Ctx,
    set_context::set_context,
};
