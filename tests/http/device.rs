//! A person's device: what an authenticator app does.

use std::sync::atomic::{AtomicU64, Ordering};

use chrono::Utc;
use regex::Regex;
use reqwest::Method;
use serde_json::{Value, json};
use tests::{Client, PASSWORD, Reply, eventually};
use totp_rs::Totp;

/// Seconds of a time step.
const STEP: u64 = 30;
/// Seconds that must be left of a step where a test wants its codes to go on being good.
const ROOM: u64 = 12;

/// Has a shared key, and shows its codes.
pub(crate) struct Device {
    totp: Totp,
    /// The step of the code that was shown last.
    shown: AtomicU64,
}

pub(crate) fn present_step() -> u64 {
    u64::try_from(Utc::now().timestamp()).unwrap() / STEP
}

/// Waits for a step that goes on for a while, and says which it is: codes of the step before it are good until it ends.
pub(crate) async fn settled_step() -> u64 {
    let room = async || {
        let now = u64::try_from(Utc::now().timestamp()).unwrap();
        (STEP - now % STEP > ROOM).then_some(now / STEP)
    };
    eventually("a step that goes on", room).await
}

impl Device {
    /// Reads what a person's app reads.
    pub(crate) fn from_uri(uri: &str) -> Self {
        Self { totp: Totp::from_url(uri).unwrap(), shown: AtomicU64::new(0) }
    }

    /// What the device knows.
    pub(crate) fn totp(&self) -> &Totp {
        &self.totp
    }

    /// The step of the code that was shown last.
    pub(crate) fn shown(&self) -> u64 {
        self.shown.load(Ordering::Relaxed)
    }

    /// The code of one step.
    pub(crate) fn code_of(&self, step: u64) -> String {
        self.shown.fetch_max(step, Ordering::Relaxed);
        self.totp.generate(step * STEP).to_string()
    }

    /// A code that is good now and newer than all it has shown. Waits for the next one where it must.
    pub(crate) async fn code(&self) -> String {
        let step = eventually("the next code", async || {
            let now = u64::try_from(Utc::now().timestamp()).unwrap();
            let (step, left) = (now / STEP, STEP - now % STEP);
            // The code before this one is good until the step ends.
            let oldest = if left > ROOM { step - 1 } else { step };
            let next = oldest.max(self.shown.load(Ordering::Relaxed) + 1);
            (next <= step + 1).then_some(next)
        })
        .await;
        self.code_of(step)
    }

    /// A code that is not good and will not be.
    pub(crate) fn wrong_code(&self) -> String {
        let near = present_step() - 5..present_step() + 20;
        let right: Vec<String> = near.map(|step| self.totp.generate(step * STEP).to_string()).collect();
        (0..).map(|n| format!("{n:06}")).find(|code| !right.contains(code)).unwrap()
    }
}

/// Begins to set up a device for who is signed in.
pub(crate) async fn begin(person: &Client) -> (Device, Reply) {
    let enrolment = person.post("/api/auth/2fa", json!({})).await.expect(200);
    (Device::from_uri(enrolment.str("otpauth_uri")), enrolment)
}

pub(crate) async fn confirm(person: &Client, code: &str) -> Reply {
    person.post("/api/auth/2fa/confirm", json!({"totp_code": code})).await
}

pub(crate) async fn switch_off(person: &Client, code: &str) -> Reply {
    let request = person.request(Method::DELETE, "/api/auth/2fa").json(&json!({"totp_code": code}));
    person.send(request).await
}

/// Sets a device up; the recovery codes with it.
pub(crate) async fn set_up(person: &Client) -> (Device, Vec<String>) {
    let (device, _) = begin(person).await;
    let confirmed = confirm(person, &device.code().await).await.expect(200);
    (device, recovery_codes(&confirmed))
}

pub(crate) fn recovery_codes(confirmed: &Reply) -> Vec<String> {
    let codes = confirmed.json["recovery_codes"].as_array().unwrap();
    codes.iter().map(|code| code.as_str().unwrap().to_owned()).collect()
}

/// Signs in as `name@example.org`, with a code where there is one.
pub(crate) async fn login(anon: &Client, name: &str, code: Option<&str>) -> Reply {
    let mut body = json!({"email": format!("{name}@example.org"), "password": PASSWORD});
    if let Some(code) = code {
        body["totp_code"] = Value::from(code);
    }
    anon.post("/api/auth/login", body).await
}

/// What a phone's camera makes of the picture.
pub(crate) fn photographed(svg: &str) -> String {
    let size = Regex::new(r#"<svg [^>]*width="(\d+)" height="(\d+)""#).unwrap();
    let (_, [width, height]) = size.captures(svg).unwrap().extract();
    let (width, height): (usize, usize) = (width.parse().unwrap(), height.parse().unwrap());
    let mut dark = vec![false; width * height];
    let square = Regex::new(r"M(\d+) (\d+)h(\d+)v(\d+)H").unwrap();
    for (_, [left, top, wide, high]) in square.captures_iter(svg).map(|found| found.extract()) {
        let [left, top, wide, high] = [left, top, wide, high].map(|number| number.parse::<usize>().unwrap());
        for y in top..top + high {
            dark[y * width + left..y * width + left + wide].fill(true);
        }
    }
    let shade = |x: usize, y: usize| if dark[y * width + x] { 0 } else { 255 };
    let mut picture = rqrr::PreparedImage::prepare_from_greyscale(width, height, shade);
    let codes = picture.detect_grids();
    assert_eq!(codes.len(), 1, "{svg}");
    codes[0].decode().unwrap().1
}
