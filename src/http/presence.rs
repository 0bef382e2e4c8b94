//! Who is here: `GET /api/presence` and what is beneath it.
//!
//! Everything is given page by page: `limit` entries at a time, behind the one that `after` names. What topics are about is asked of all
//! instances when somebody wants to know it; the answer says which of them gave none.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use percent_encoding::percent_decode_str;
use serde::Serialize;
use serde_json::{Value, json};
use url::form_urlencoded;
use warp::Reply;
use warp::http::header::CACHE_CONTROL;
use warp::reply::{Response, json as json_reply, with_header};

use super::api::{Problem, ProblemKind};
use crate::broker::Broker;
use crate::hub::{Counted, Hub, NAMES_MAX, Question};
use crate::instance::InstanceName;
use crate::presence::{Gathered, Presence, Stay};
use crate::user::UserName;

/// Names in a page, unless the request says how many.
const LIMIT: usize = 100;

/// What it is answered from.
pub struct Whereabouts {
    pub presence: Presence,
    pub broker: Arc<dyn Broker>,
    pub hub: Hub,
}

/// A piece of a list.
#[derive(Debug, PartialEq, Eq)]
struct Page {
    after: Option<String>,
    limit: usize,
    /// Of all instances, not of the one that is asked alone.
    everywhere: bool,
}

impl Whereabouts {
    /// Answers a GET; `path` is what follows `/api/presence`, as it stands in the request.
    pub async fn answer(&self, path: &str, query: &str) -> Response {
        match self.answer_or_fail(path, query).await {
            Ok(answer) => with_header(json_reply(&answer), CACHE_CONTROL, "no-store").into_response(),
            Err(problem) => problem.into_response(),
        }
    }

    async fn answer_or_fail(&self, path: &str, query: &str) -> Result<Value, Problem> {
        let page = page(query)?;
        if page.everywhere && path != "/users" {
            return Err(Problem::new(ProblemKind::BadQuery, "Only users may be asked for everywhere."));
        }
        if path.is_empty() {
            return self.overview(page).await;
        }
        if let Some(topic) = path.strip_prefix("/topics/") {
            return self.topic(&decoded(topic, ProblemKind::BadTopic)?, page).await;
        }
        match path.strip_prefix("/users") {
            Some("") => self.users(&page),
            Some(user) => self.user(user.strip_prefix('/').unwrap_or(user), &page),
            None => Err(Problem::new(ProblemKind::NotFound, "There is no such route.")),
        }
    }

    /// Users and sessions by instance; and the topics that are subscribed to by name.
    async fn overview(&self, page: Page) -> Result<Value, Problem> {
        let limit = page.limit;
        let gathered = self.gather(None, page).await?;
        let mut topics = BTreeMap::<&str, BTreeMap<&str, usize>>::new();
        for (instance, counted) in &gathered.answers {
            for (topic, sessions) in &counted.names {
                topics.entry(topic).or_default().insert(instance.as_str(), *sessions);
            }
        }
        // Behind the last of a page that is full an instance may have more that it did not tell of.
        let next = topics.keys().nth(limit.saturating_sub(1)).copied();
        let topics = topics.iter().take(limit).map(|(topic, instances)| {
            json!({ "topic": topic, "subscriptions": sum(instances.values()), "instances": instances })
        });
        let instances = self.presence.counts().into_iter().map(
            |(name, count)| json!({ "instance": name.as_str(), "sessions": count.sessions, "users": count.users }),
        );
        Ok(json!({
            "instances": instances.collect::<Vec<_>>(), "topics": topics.collect::<Vec<_>>(), "next": next, "silent": silent(&gathered),
        }))
    }

    /// Who hears a topic.
    async fn topic(&self, topic: &str, page: Page) -> Result<Value, Problem> {
        let limit = page.limit;
        let gathered = self.gather(Some(topic.to_owned()), page).await?;
        let question = Question { topic: None, after: None, limit };
        let mut all = Counted::default();
        gathered.answers.values().for_each(|counted| question.add(&mut all, counted));
        let instances = gathered.answers.iter();
        let instances =
            instances.map(|(name, counted)| json!({ "instance": name.as_str(), "sessions": counted.total }));
        Ok(json!({
            "topic": topic,
            "sessions": all.total,
            "instances": instances.collect::<Vec<_>>(),
            "users": named(all.names.iter().map(|(user, sessions)| (user.as_str(), *sessions))),
            "next": next(all.names.keys(), limit),
            "silent": silent(&gathered),
        }))
    }

    async fn gather(&self, topic: Option<String>, page: Page) -> Result<Arc<Gathered>, Problem> {
        let question = Question { topic, after: page.after, limit: page.limit };
        if let Some(Err(reason)) = question.topic() {
            return Err(Problem::new(ProblemKind::BadTopic, format!("No topic: {reason}.")));
        }
        let gathered = self.presence.gather(&self.broker, &self.hub, question).await;
        gathered.map_err(|_| Problem::new(ProblemKind::Overloaded, "Ask again."))
    }

    /// The users of this instance, or of all.
    fn users(&self, page: &Page) -> Result<Value, Problem> {
        let after = page.after.as_deref().map(user_name).transpose()?;
        let (users, has_more) = if page.everywhere {
            self.presence.users_everywhere(after.as_ref(), page.limit)
        } else {
            self.presence.users_here(after.as_ref(), page.limit)
        };
        let next = users.last().filter(|_| has_more).map(|(user, _)| user.as_str());
        Ok(json!({
            "instance": self.presence.name().as_str(),
            "users": named(users.iter().map(|(user, sessions)| (user.as_str(), *sessions))),
            "next": next,
        }))
    }

    /// Where a user is, and since when.
    fn user(&self, path: &str, page: &Page) -> Result<Value, Problem> {
        let user = user_name(&decoded(path, ProblemKind::BadQuery)?)?;
        let after = page.after.as_deref().map(session).transpose()?;
        let stays = self.presence.sessions_of(&user);
        let mut instances: Vec<&InstanceName> = stays.iter().map(|stay| &stay.instance).collect();
        instances.sort_unstable();
        instances.dedup();
        let instances: Vec<_> = instances.into_iter().map(InstanceName::as_str).collect();
        let mut behind = stays.iter().filter(|stay| after.as_ref().is_none_or(|after| *stay > after));
        let listed: Vec<&Stay> = behind.by_ref().take(page.limit).collect();
        let next = listed.last().filter(|_| behind.next().is_some()).map(ToString::to_string);
        let sessions = listed.iter().map(
            |stay| json!({ "instance": stay.instance.as_str(), "number": stay.number, "since": time(stay.since_ms) }),
        );
        Ok(json!({
            "user": user.as_str(),
            "count": stays.len(),
            "instances": instances,
            "sessions": sessions.collect::<Vec<_>>(),
            "next": next,
        }))
    }
}

#[derive(Serialize)]
struct Named<'a> {
    user: &'a str,
    sessions: usize,
}

fn named<'a>(names: impl Iterator<Item = (&'a str, usize)>) -> Vec<Named<'a>> {
    names.map(|(user, sessions)| Named { user, sessions }).collect()
}

/// Of what others said, who may say anything.
fn sum<'a>(counts: impl Iterator<Item = &'a usize>) -> usize {
    counts.fold(0, |sum, count| sum.saturating_add(*count))
}

fn silent(gathered: &Gathered) -> Vec<&str> {
    gathered.silent.iter().map(InstanceName::as_str).collect()
}

/// The last name of a page that is full: there may be more behind it.
fn next<'a>(mut names: impl Iterator<Item = &'a String>, limit: usize) -> Option<&'a String> {
    names.nth(limit.saturating_sub(1))
}

/// As RFC 3339 writes it; the last moment there is of what no clock says.
fn time(unix_ms: u64) -> String {
    let time = i64::try_from(unix_ms).ok().and_then(|millis| Timestamp::from_millisecond(millis).ok());
    time.unwrap_or(Timestamp::MAX).to_string()
}

fn decoded(text: &str, kind: ProblemKind) -> Result<String, Problem> {
    let text = percent_decode_str(text).decode_utf8();
    text.map(|text| text.into_owned()).map_err(|_| Problem::new(kind, "The path is not UTF-8."))
}

fn user_name(text: &str) -> Result<UserName, Problem> {
    UserName::parse(text).map_err(|reason| Problem::new(ProblemKind::BadQuery, format!("No user: {reason}.")))
}

fn session(text: &str) -> Result<Stay, Problem> {
    text.parse().map_err(|reason| Problem::new(ProblemKind::BadQuery, format!("after names {reason}.")))
}

fn page(query: &str) -> Result<Page, Problem> {
    let mut page = Page { after: None, limit: LIMIT, everywhere: false };
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        match &*name {
            "after" => page.after = Some(value.into_owned()),
            "limit" => match value.parse() {
                Ok(limit @ 1..=NAMES_MAX) => page.limit = limit,
                _ => return Err(Problem::new(ProblemKind::BadQuery, format!("limit is 1 to {NAMES_MAX}."))),
            },
            "everywhere" => match value.parse() {
                Ok(everywhere) => page.everywhere = everywhere,
                Err(_) => return Err(Problem::new(ProblemKind::BadQuery, "everywhere is true or false.")),
            },
            _ => {
                let detail = "There are only the parameters after, limit and everywhere.";
                return Err(Problem::new(ProblemKind::BadQuery, detail));
            }
        }
    }
    Ok(page)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_what_the_query_says() {
        let of = |query: &str| page(query).ok();
        let first = Page { after: None, limit: LIMIT, everywhere: false };
        assert_eq!(of(""), Some(first));
        let everywhere = Page { after: Some("b c".into()), limit: 7, everywhere: true };
        assert_eq!(of("after=b%20c&limit=7&everywhere=true"), Some(everywhere));
        assert_eq!(of(&format!("limit={NAMES_MAX}")).map(|page| page.limit), Some(NAMES_MAX));
        for query in ["limit=0", "limit=-1", "limit=x", &format!("limit={}", NAMES_MAX + 1), "offset=1", "everywhere=1"]
        {
            assert_eq!(of(query), None, "{query}");
        }
    }

    #[test]
    fn a_time_that_no_clock_says_is_the_last_one() {
        assert_eq!(time(0), "1970-01-01T00:00:00Z");
        assert_eq!(time(u64::MAX), Timestamp::MAX.to_string());
    }
}
