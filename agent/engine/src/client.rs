//! Which program asked for a build, as far as its requests tell.
//!
//! | client | what tells it | when |
//! |---|---|---|
//! | kiln | the user agent of its call: `kiln/VERSION …` | at the begin |
//! | buildx, buildctl | the span that its call is part of, which it sends itself: its resource's `service.name` | at its end |
//!
//! gRPC's user agent, the session's headers and the form of names are the same for all clients that are written in
//! Go, so they tell nothing. `docker build` runs buildx, which sends what it always sends: its builds are buildx's.
//! A program of another name, and one that sends no spans, stays unknown.
//!
//! Invariant: this is what a client says of itself. It is shown, and decides nothing.

/// Names that programs have as services.
const SERVICES: [&str; 2] = ["buildx", "buildctl"];

/// The client whose calls have this user agent; empty where that tells none.
pub(crate) fn of_user_agent(agent: &str) -> &'static str {
    if agent.starts_with("kiln/") {
        "kiln"
    } else {
        ""
    }
}

/// The client that is a service of this name; `None` where it is none that we know.
pub(crate) fn of_service(name: &str) -> Option<&'static str> {
    SERVICES.into_iter().find(|known| *known == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_are_told_apart_by_what_they_call_themselves() {
        for (agent, client) in [
            ("kiln/0.1.0 tonic/0.14.2", "kiln"),
            ("grpc-go/1.79.3", ""),
            ("tonic/0.14.2", ""),
            ("kilnd/0.1.0", ""),
            ("", ""),
        ] {
            assert_eq!(of_user_agent(agent), client, "{agent}");
        }
        for (service, client) in [
            ("buildx", Some("buildx")),
            ("buildctl", Some("buildctl")),
            ("kilnd", None),
            ("buildx-of-somebody", None),
            ("", None),
        ] {
            assert_eq!(of_service(service), client, "{service}");
        }
    }
}
