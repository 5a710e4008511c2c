//! How often a client may ask (design.md section 5). Counted per node and in memory: a restart forgets.

use std::hash::{BuildHasher, Hash, RandomState};
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use governor::clock::{Clock, DefaultClock, Reference};
use governor::middleware::NoOpMiddleware;
use governor::state::keyed::DashMapStateStore;
use governor::{Quota, RateLimiter};
use uuid::Uuid;

use super::client_ip::ClientIp;
use crate::config::Settings;
use crate::problem::Problem;

/// Attempts to sign in, register or reset a password, per minute and IP.
const SIGN_IN_PER_MINUTE: u32 = 10;
/// Clients remembered by one limiter, about 100 bytes each.
const MAX_CLIENTS: usize = 100_000;
/// Clients beyond that share this many counters.
const OVERFLOW_COUNTERS: u64 = 4096;
/// A limiter forgets idle clients every so many checks, and a quarter of their number.
const CHECKS_BETWEEN_SWEEPS: usize = 1024;

/// The client must wait this long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many requests; wait {0:?}")]
pub struct TooMany(pub Duration);

impl From<TooMany> for Problem {
    fn from(TooMany(wait): TooMany) -> Self {
        Self::too_many_requests(wait)
    }
}

/// The limits of one server. Cheap to clone.
///
/// Authentication decides which one counts: a request with a good credential calls `check_authenticated`, one with none or
/// a bad one `check_anonymous`, and whatever takes a password or a token of a mail calls `check_sign_in` as well.
#[derive(Clone)]
pub struct RateLimits(Option<Arc<Limiters>>);

struct Limiters {
    anonymous: Limiter<IpAddr>,
    authenticated: Limiter<Uuid>,
    sign_in: Limiter<IpAddr>,
}

impl RateLimits {
    /// From `RATE_LIMIT_ENABLED`, `RATE_LIMIT_PER_MINUTE` and `RATE_LIMIT_AUTHENTICATED_PER_MINUTE`.
    pub fn new(settings: &Settings) -> Self {
        let limiters = || {
            Arc::new(Limiters {
                anonymous: Limiter::new(settings.rate_limit_per_minute),
                authenticated: Limiter::new(settings.rate_limit_authenticated_per_minute),
                sign_in: Limiter::new(SIGN_IN_PER_MINUTE),
            })
        };
        Self(settings.rate_limit_enabled.then(limiters))
    }

    /// A request without a (good) credential.
    ///
    /// # Errors
    /// When this address has used up its share.
    pub fn check_anonymous(&self, ip: ClientIp) -> Result<(), TooMany> {
        self.0.as_ref().map_or(Ok(()), |limiters| limiters.anonymous.check(network(ip)))
    }

    /// A request of this user or API key.
    ///
    /// # Errors
    /// When it has used up its share.
    pub fn check_authenticated(&self, id: Uuid) -> Result<(), TooMany> {
        self.0.as_ref().map_or(Ok(()), |limiters| limiters.authenticated.check(id))
    }

    /// An attempt to sign in from this address.
    ///
    /// # Errors
    /// When there were too many of late.
    pub fn check_sign_in(&self, ip: ClientIp) -> Result<(), TooMany> {
        self.0.as_ref().map_or(Ok(()), |limiters| limiters.sign_in.check(network(ip)))
    }
}

impl std::fmt::Debug for RateLimits {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RateLimits").field("enabled", &self.0.is_some()).finish()
    }
}

/// Middleware for routes that authenticate nobody, for `axum::middleware::from_fn_with_state`.
pub async fn limit_anonymous(State(limits): State<RateLimits>, request: Request, next: Next) -> Response {
    match limits.check_anonymous(ClientIp::of(request.extensions())) {
        Ok(()) => next.run(request).await,
        Err(too_many) => Problem::from(too_many).into_response(),
    }
}

/// One household or server usually has a whole IPv6 /64, so that is what counts.
fn network(ip: ClientIp) -> IpAddr {
    match ip.0 {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from(u128::from(address) >> 64 << 64)),
        v4 => v4,
    }
}

type Keyed<K, C> = RateLimiter<K, DashMapStateStore<K>, C, NoOpMiddleware<<C as Clock>::Instant>>;

/// A keyed limiter whose memory has a bound. Past it, newcomers and all others share a fixed number of counters until idle
/// clients are forgotten: under a flood from many addresses honest clients may be refused, and memory stays flat.
struct Limiter<K: Hash + Eq + Clone, C: Clock = DefaultClock> {
    clients: Keyed<K, C>,
    overflow: Keyed<u64, C>,
    clock: C,
    max_clients: usize,
    full: AtomicBool,
    checks_until_sweep: AtomicUsize,
    hasher: RandomState,
}

impl<K: Hash + Eq + Clone> Limiter<K> {
    fn new(per_minute: u32) -> Self {
        Self::with_clock(per_minute, MAX_CLIENTS, DefaultClock::default())
    }
}

impl<K: Hash + Eq + Clone, C: Clock + Clone> Limiter<K, C> {
    fn with_clock(per_minute: u32, max_clients: usize, clock: C) -> Self {
        let quota = Quota::per_minute(NonZeroU32::new(per_minute).unwrap_or(NonZeroU32::MIN));
        Self {
            clients: RateLimiter::new(quota, DashMapStateStore::default(), clock.clone()),
            overflow: RateLimiter::new(quota, DashMapStateStore::default(), clock.clone()),
            clock,
            max_clients,
            full: AtomicBool::new(false),
            checks_until_sweep: AtomicUsize::new(CHECKS_BETWEEN_SWEEPS),
            hasher: RandomState::new(),
        }
    }

    fn check(&self, key: K) -> Result<(), TooMany> {
        // Exactly one of the callers sees 1 and sweeps; until it has set the count anew the others wrap below zero unharmed.
        if self.checks_until_sweep.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.sweep();
        }
        let outcome = if self.full.load(Ordering::Relaxed) {
            self.overflow.check_key(&(self.hasher.hash_one(&key) % OVERFLOW_COUNTERS))
        } else {
            self.clients.check_key(&key)
        };
        outcome
            .map_err(|refused| TooMany(refused.earliest_possible().duration_since(self.clock.now()).into()))
    }

    /// Forgets clients whose share is whole again. Its cost grows with their number, and so does the time to the next one.
    fn sweep(&self) {
        self.clients.retain_recent();
        let clients = self.clients.len();
        self.full.store(clients >= self.max_clients, Ordering::Relaxed);
        self.checks_until_sweep.store(CHECKS_BETWEEN_SWEEPS + clients / 4, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use axum::Router;
    use axum::body::Body;
    use axum::http::StatusCode;
    use axum::middleware::from_fn_with_state;
    use axum::routing::get;
    use governor::clock::FakeRelativeClock;
    use tower::ServiceExt;

    use super::*;
    use crate::config::Sources;

    fn limits(environment: &[(&str, &str)]) -> RateLimits {
        let environment = environment.iter().map(|(name, text)| ((*name).into(), (*text).into())).collect();
        RateLimits::new(&Settings::load(&Sources { environment, file: "/nonexistent".into() }).unwrap())
    }

    fn ip(text: &str) -> ClientIp {
        ClientIp(text.parse().unwrap())
    }

    fn limiter(per_minute: u32, max_clients: usize) -> (Limiter<u32, FakeRelativeClock>, FakeRelativeClock) {
        let clock = FakeRelativeClock::default();
        (Limiter::with_clock(per_minute, max_clients, clock.clone()), clock)
    }

    #[test]
    fn a_client_is_refused_until_its_wait_is_over() {
        let (limiter, clock) = limiter(6, 10);
        (0..6).for_each(|_| limiter.check(1).unwrap());
        assert_eq!(limiter.check(1), Err(TooMany(Duration::from_secs(10))));
        limiter.check(2).unwrap();
        clock.advance(Duration::from_secs(9));
        assert_eq!(limiter.check(1), Err(TooMany(Duration::from_secs(1))));
        clock.advance(Duration::from_secs(1));
        limiter.check(1).unwrap();
        limiter.check(1).unwrap_err();
    }

    #[test]
    fn memory_has_a_bound_and_the_limit_holds_beyond_it() {
        let (limiter, clock) = limiter(2, 100);
        let passed = (0..200_000).filter(|client| limiter.check(*client).is_ok()).count();
        assert!(limiter.clients.len() <= 100 + 2 * CHECKS_BETWEEN_SWEEPS, "{}", limiter.clients.len());
        assert!(limiter.overflow.len() as u64 <= OVERFLOW_COUNTERS);
        // A flood of fresh addresses shares what there is.
        assert!(passed < 20_000, "{passed}");
        // Once it is over, everyone has a counter again.
        clock.advance(Duration::from_secs(60));
        limiter.sweep();
        assert_eq!(limiter.clients.len(), 0);
        (0..50).for_each(|client| limiter.check(client).unwrap());
        assert_eq!(limiter.clients.len(), 50);
    }

    #[test]
    fn each_kind_of_client_has_its_own_limit() {
        let limits = limits(&[("RATE_LIMIT_PER_MINUTE", "2"), ("RATE_LIMIT_AUTHENTICATED_PER_MINUTE", "3")]);
        let (here, user) = (ip("192.0.2.1"), Uuid::from_u128(1));
        (0..2).for_each(|_| limits.check_anonymous(here).unwrap());
        let TooMany(wait) = limits.check_anonymous(here).unwrap_err();
        assert!(wait > Duration::ZERO && wait <= Duration::from_secs(30), "{wait:?}");
        limits.check_anonymous(ip("192.0.2.2")).unwrap();
        (0..3).for_each(|_| limits.check_authenticated(user).unwrap());
        limits.check_authenticated(user).unwrap_err();
        limits.check_authenticated(Uuid::from_u128(2)).unwrap();
    }

    #[test]
    fn signing_in_is_strict_per_address() {
        let limits = limits(&[]);
        (0..10).for_each(|_| limits.check_sign_in(ip("192.0.2.1")).unwrap());
        limits.check_sign_in(ip("192.0.2.1")).unwrap_err();
        limits.check_sign_in(ip("192.0.2.2")).unwrap();
    }

    #[test]
    fn an_ipv6_network_counts_as_one() {
        let limits = limits(&[("RATE_LIMIT_PER_MINUTE", "1")]);
        limits.check_anonymous(ip("2001:db8:1:2::1")).unwrap();
        limits.check_anonymous(ip("2001:db8:1:2:ffff::9")).unwrap_err();
        limits.check_anonymous(ip("2001:db8:1:3::1")).unwrap();
    }

    #[test]
    fn off_means_off() {
        let limits = limits(&[("RATE_LIMIT_ENABLED", "false"), ("RATE_LIMIT_PER_MINUTE", "1")]);
        for _ in 0..50 {
            limits.check_anonymous(ip("192.0.2.1")).unwrap();
            limits.check_sign_in(ip("192.0.2.1")).unwrap();
        }
    }

    #[tokio::test]
    async fn the_answer_says_when_to_come_back() {
        let limits = limits(&[("RATE_LIMIT_PER_MINUTE", "1")]);
        let router =
            Router::new().route("/", get(|| async {})).layer(from_fn_with_state(limits, limit_anonymous));
        let ask = || router.clone().oneshot(Request::new(Body::empty()));
        assert_eq!(ask().await.unwrap().status(), StatusCode::OK);
        let refused = ask().await.unwrap();
        assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
        let wait: u64 = refused.headers()["retry-after"].to_str().unwrap().parse().unwrap();
        assert!((1..=60).contains(&wait), "{wait}");
    }
}
