//! Carries a test out: step after step, with an eye on everybody who might suffer.

use crate::generator::{self, Progress, Report, Request, Running, Spacing, Stretch, Target};
use crate::harm::Standing;
use crate::objective::Objective;
use crate::outcome::{Ended, Largest, Limits, Outcome, Scalability, StepReport};
use crate::predictions::{self, Evidence};
use crate::search::{Found, Next, Search, Step};
use api::{Status, WindowPage};
use bottleneck::knee::{Bend, knee};
use bottleneck::{Baseline, Window, diagnose, usl};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// What is to be tested, and how.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The service.
    pub service: String,
    /// What a request is.
    pub request: Request,
    /// What is promised to clients.
    pub objective: Objective,
    /// One rate to measure; without it the largest load is searched for.
    pub rate: Option<f64>,
    /// The rate with which the search begins; without it, a tenth of what one client could ask.
    pub from: Option<f64>,
    /// No rate above this, requests a second.
    pub rate_max: f64,
    /// Length of a step: three to six hundred seconds.
    pub step: Duration,
    /// Of it, what is left out at its beginning.
    pub settle: Duration,
    /// In which intervals.
    pub spacing: Spacing,
    /// Of the chance in them.
    pub seed: u64,
}

/// The shortest step that tells anything, and the longest.
pub const STEP_MIN: Duration = Duration::from_secs(3);
/// See [`STEP_MIN`].
pub const STEP_MAX: Duration = Duration::from_secs(600);
/// All steps together: a search that does not end by then is told as far as it came.
const TEST_MAX: Duration = Duration::from_secs(3_600);
/// How often it is looked whether anybody suffers.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// The agent has a second's figures this long after it, at most.
const FIGURES_AFTER: Duration = Duration::from_millis(2_300);
/// More failures than this, of those measured, and the objective is not met.
const FAILED_MAX: f64 = 0.01;
/// Fewer answers than this, of those due, and a queue is left behind.
const KEEPS_UP: f64 = 0.97;
/// A generator beyond these tells of itself.
const LAG_MAX: Duration = Duration::from_millis(1);
const CPU_MAX: f64 = 0.7;
/// A step that is lost needs to last only so long for it to be seen why.
const SEEN_AFTER: Duration = Duration::from_secs(8);
/// The first step is this share of what one request after the other could do: nothing waits.
const FIRST: f64 = 0.1;
/// At the first step so many requests are due at least, or it would show nothing.
const DUE_FIRST: f64 = 20.0;
/// With more under way than this the step is lost, and going on only does harm.
const UNDER_WAY_MAX: u64 = 3_000;

/// What a test needs of its surroundings: the agent, as a rule.
pub trait Surroundings {
    /// How everything stands.
    fn status(&mut self) -> impl Future<Output = Result<Status, String>>;
    /// What was measured after a second; of `u64::MAX` only which second it is.
    fn windows(&mut self, after: u64) -> impl Future<Output = Result<WindowPage, String>>;
}

/// What is told while it goes.
#[derive(Debug, Clone)]
pub enum Told<'a> {
    /// A step begins.
    Begins {
        /// Requests a second.
        rate: f64,
        /// For so long.
        step: Duration,
        /// Which it is, from 1.
        number: usize,
    },
    /// It goes like this.
    Goes(Progress),
    /// It ended.
    Ended(&'a StepReport),
}

/// Why nothing is tested.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// There is no such service.
    #[error("there is no service `{0}`")]
    Unknown(String),
    /// Clients do not come through the proxy.
    #[error("`{0}` has no `listen`, so there is no address at which its clients come in")]
    NoFront(String),
    /// Against nothing.
    #[error("`{service}` is {state}: {because}; there is nothing to test")]
    Down {
        /// The service.
        service: String,
        /// Its state.
        state: String,
        /// Why.
        because: String,
    },
    /// An instance of it is sick.
    #[error("{0}: a test would make that worse, and its figures would be those of a sick service")]
    Unwell(String),
    /// Automatic actions are paused.
    #[error("automatic actions are paused, so nobody would be there if the test did harm")]
    Paused,
    /// One request at rest was not answered well.
    #[error("one request at rest failed ({how}): {request} at {address}")]
    NoAnswer {
        /// How.
        how: String,
        /// What was asked.
        request: String,
        /// Where.
        address: SocketAddr,
    },
    /// Not a step.
    #[error("a step of {} s tells nothing or never ends: {} to {} s can be asked for", .0.as_secs_f64(), STEP_MIN.as_secs(), STEP_MAX.as_secs())]
    Step(Duration),
    /// The agent does not say how things stand.
    #[error("it is not known how things stand ({0}), so it would not be known whether anybody suffers")]
    Blind(String),
    /// Nothing can be sent.
    #[error(transparent)]
    Generator(#[from] generator::Error),
}

impl Refusal {
    /// What can be done about it.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Refusal::Unknown(_) => Some("`understudy status` lists the services"),
            Refusal::NoFront(_) => Some("give it a `listen`, or test the service that calls it"),
            Refusal::Down { .. } | Refusal::Unwell(_) => Some("`understudy explain` says what is wrong"),
            Refusal::Paused => Some("`understudy resume` ends that"),
            Refusal::NoAnswer { .. } => {
                Some("choose what is asked with --path, or --send for a service that speaks no HTTP")
            }
            Refusal::Generator(generator::Error::Path { .. }) | Refusal::Step(_) | Refusal::Blind(_) => None,
            Refusal::Generator(_) => None,
        }
    }
}

/// A finished step.
struct Done {
    report: StepReport,
    /// The seconds of the agent that were measured: after the first, up to the second.
    span: Option<(u64, u64)>,
    windows: Vec<Window>,
}

/// Carries it out. Whoever drops it in between ends it: nothing more is sent.
pub async fn run<S: Surroundings>(
    plan: &Plan,
    surroundings: &mut S,
    mut tell: impl FnMut(Told<'_>),
) -> Result<Outcome, Refusal> {
    let begun = Instant::now();
    let now = jiff::Timestamp::now();
    let began = now.round(jiff::Unit::Second).unwrap_or(now);
    if !(STEP_MIN..=STEP_MAX).contains(&plan.step) || plan.settle + Duration::from_secs(2) > plan.step {
        return Err(Refusal::Step(plan.step));
    }
    let status = surroundings.status().await.map_err(Refusal::Blind)?;
    let target = Target {
        address: admit(plan, &status)?,
        request: plan.request.clone(),
    };
    let alone = at_rest(&target).await?;
    let before = Standing::from(&status);
    let mut test = Test {
        plan,
        target: &target,
        surroundings,
        before,
        steps: Vec::new(),
        tell: &mut tell,
    };
    let ended = match plan.rate {
        Some(rate) => test.measure(rate).await?,
        None => test.search(plan.from, FIRST / alone.as_secs_f64(), begun).await?,
    };
    tokio::time::sleep(FIGURES_AFTER).await;
    test.fetch(0).await;
    let mut steps = test.steps;
    for done in &mut steps {
        seen_inside(&mut done.report, &done.windows);
    }
    let status = surroundings.status().await.unwrap_or(status);
    Ok(judge(
        plan,
        &target,
        &status,
        steps,
        ended,
        began.to_string(),
        begun.elapsed(),
    ))
}

/// Where to test it, or why not.
fn admit(plan: &Plan, status: &Status) -> Result<SocketAddr, Refusal> {
    let name = &plan.service;
    let service = status.services.iter().find(|service| service.name == *name);
    let service = service.ok_or_else(|| Refusal::Unknown(name.clone()))?;
    let listen = service.listen.as_ref().and_then(|listen| listen.parse().ok());
    let address: SocketAddr = listen.ok_or_else(|| Refusal::NoFront(name.clone()))?;
    if status.paused.is_some() {
        return Err(Refusal::Paused);
    }
    if service.state == "down" {
        return Err(Refusal::Down {
            service: name.clone(),
            state: service.state.clone(),
            because: service.because.clone(),
        });
    }
    let sick = service
        .instances
        .iter()
        .find(|instance| instance.role == "active" && instance.health != "healthy");
    if let Some(sick) = sick {
        return Err(Refusal::Unwell(format!("{} is {}", sick.id, sick.health)));
    }
    // An address that stands for all is reached on this machine.
    let ip = match address.ip() {
        ip if !ip.is_unspecified() => ip,
        std::net::IpAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
        std::net::IpAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
    };
    Ok(SocketAddr::new(ip, address.port()))
}

/// How long a request takes when nothing else is asked: the quickest of five.
async fn at_rest(target: &Target) -> Result<Duration, Refusal> {
    let mut best = Duration::MAX;
    for _ in 0..5 {
        match generator::trial(target).await? {
            generator::Trial::Answered(took) => best = best.min(took),
            generator::Trial::Failed(how) => {
                let request = in_words(&target.request);
                return Err(Refusal::NoAnswer {
                    how,
                    request,
                    address: target.address,
                });
            }
        }
    }
    Ok(best.max(Duration::from_micros(100)))
}

fn in_words(request: &Request) -> String {
    match request {
        Request::Get { path } => format!("GET {path}"),
        Request::Connect { send } if send.is_empty() => "a connection".into(),
        Request::Connect { .. } => "a connection with bytes sent".into(),
    }
}

struct Test<'a, S, T> {
    plan: &'a Plan,
    target: &'a Target,
    surroundings: &'a mut S,
    before: Standing,
    steps: Vec<Done>,
    tell: &'a mut T,
}

impl<S: Surroundings, T: FnMut(Told<'_>)> Test<'_, S, T> {
    /// One rate, after a lower one that shows what is usual.
    async fn measure(&mut self, rate: f64) -> Result<Ended, Refusal> {
        let first = first(rate, self.plan.step - self.plan.settle);
        for rate in first.into_iter().chain([rate]) {
            if let Some(harm) = self.step(rate).await? {
                return Ok(aborted(&harm, rate));
            }
        }
        Ok(Ended {
            how: "measured".into(),
            text: format!("{} requests a second were asked for", number(rate)),
        })
    }

    async fn search(&mut self, from: Option<f64>, first: f64, begun: Instant) -> Result<Ended, Refusal> {
        // So many that a percentile can be told.
        let enough = 30.0 / (self.plan.step - self.plan.settle).as_secs_f64();
        let mut search = Search::new(from.unwrap_or(first).max(enough), self.plan.rate_max, 0.04);
        loop {
            match search.next() {
                Next::Try(_) if begun.elapsed() + self.plan.step > TEST_MAX => {
                    return Ok(Ended {
                        how: "found".into(),
                        text: "an hour was over before the search was".into(),
                    });
                }
                Next::Try(rate) => {
                    if let Some(harm) = self.step(rate).await? {
                        return Ok(aborted(&harm, rate));
                    }
                    if let Some(done) = self.steps.last() {
                        search.note(Step {
                            rate,
                            goodput: done.report.goodput,
                            met: done.report.met,
                        });
                    }
                }
                Next::Found(found) => {
                    let text = match found {
                        Found::Between { met, unmet } => {
                            format!(
                                "the objective is met at {} a second and not at {}",
                                number(met),
                                number(unmet)
                            )
                        }
                        Found::NotEven(rate) => format!("the objective is not even met at {} a second", number(rate)),
                        Found::Beyond(rate) => {
                            format!("it is met at {} a second, the most that was allowed", number(rate))
                        }
                        Found::Levelled(_) => "more requests bring no more answers".into(),
                    };
                    return Ok(Ended {
                        how: "found".into(),
                        text,
                    });
                }
            }
        }
    }

    /// One step; what harm it did, if it did. A step that does harm is not counted as one.
    async fn step(&mut self, rate: f64) -> Result<Option<String>, Refusal> {
        let plan = self.plan;
        let number = self.steps.len() + 1;
        (self.tell)(Told::Begins {
            rate,
            step: plan.step,
            number,
        });
        self.fetch(FIGURES_AFTER.as_secs() + 1).await;
        let stretch = Stretch {
            rate,
            settle: plan.settle,
            measure: plan.step - plan.settle,
            spacing: plan.spacing,
            seed: plan.seed.wrapping_add(number as u64),
        };
        let running = generator::start(self.target, stretch)?;
        let (harm, span) = self.watch(&running, stretch).await;
        let report = tokio::task::spawn_blocking(move || running.finish()).await;
        let report = report.map_err(|error| Refusal::Blind(error.to_string()))?;
        if harm.is_some() {
            return Ok(harm);
        }
        let done = Done {
            report: summarize(plan, rate, &report),
            span,
            windows: Vec::new(),
        };
        (self.tell)(Told::Ended(&done.report));
        self.steps.push(done);
        Ok(None)
    }

    /// Waits for the end of a step, or for a reason to end it before; the seconds of the agent that were measured.
    async fn watch(&mut self, running: &Running, stretch: Stretch) -> (Option<String>, Option<(u64, u64)>) {
        let mut first = None;
        let mut blind = 0;
        while !running.is_over() {
            tokio::time::sleep(LOOK_EVERY).await;
            let progress = running.progress();
            (self.tell)(Told::Goes(progress));
            if first.is_none() && progress.elapsed >= stretch.settle {
                first = self.surroundings.windows(u64::MAX).await.ok().map(|page| page.now);
            }
            match self.surroundings.status().await {
                Ok(status) => {
                    blind = 0;
                    if let Some(harm) = Standing::from(&status).harm_since(&self.before) {
                        return (Some(harm), None);
                    }
                }
                // Once may be chance; an agent that does not answer for seconds may be the harm.
                Err(problem) => {
                    blind += 1;
                    if blind > 6 {
                        return (
                            Some(format!("it is not known any more how things stand: {problem}")),
                            None,
                        );
                    }
                }
            }
            if self.is_lost(&progress, stretch) {
                break;
            }
        }
        let last = self.surroundings.windows(u64::MAX).await.ok().map(|page| page.now);
        (None, first.zip(last))
    }

    /// Whether the objective cannot be met any more, and why is known by then.
    fn is_lost(&self, progress: &Progress, stretch: Stretch) -> bool {
        if progress.in_flight > UNDER_WAY_MAX {
            return true;
        }
        if progress.elapsed < stretch.settle + SEEN_AFTER {
            return false;
        }
        let due = stretch.rate * stretch.measure.as_secs_f64();
        let failed = progress.failed as f64 > 2.0 * FAILED_MAX * due;
        let within = self.plan.objective.within_ms;
        failed || (progress.oldest_ms > 10.0 * within && progress.p99_ms.is_none_or(|p99| p99 > 5.0 * within))
    }

    /// Gets the figures of steps that ended `ago` seconds before now or more: the agent has those of the last seconds only a while later.
    async fn fetch(&mut self, ago: u64) {
        let wanted = |done: &Done| done.windows.is_empty() && done.span.is_some();
        let Some((first, _)) = self.steps.iter().find(|done| wanted(done)).and_then(|done| done.span) else {
            return;
        };
        let Ok(page) = self.surroundings.windows(first).await else {
            return;
        };
        for done in &mut self.steps {
            let Some((first, last)) = done.span.filter(|(_, last)| last + ago <= page.now) else {
                continue;
            };
            if done.windows.is_empty() {
                done.windows = page
                    .windows
                    .iter()
                    .filter(|(second, _)| (first + 1..=last).contains(second))
                    .filter_map(|(_, window)| serde_json::from_value(window.clone()).ok())
                    .collect();
            }
        }
    }
}

/// The rate before the one that was asked for: a tenth of it, or as many as show something; none if that would be nearly as many.
fn first(rate: f64, measured: Duration) -> Option<f64> {
    let first = (FIRST * rate).max(DUE_FIRST / measured.as_secs_f64());
    (first <= 0.7 * rate).then_some(first)
}

fn aborted(harm: &str, rate: f64) -> Ended {
    Ended {
        how: "aborted".into(),
        text: format!("ended at {} a second because {harm}", number(rate)),
    }
}

fn summarize(plan: &Plan, rate: f64, report: &Report) -> StepReport {
    let objective_ms = report.latency_ms(plan.objective.quantile);
    let due = report.planned as f64;
    let answered = report.goodput * report.measured.as_secs_f64();
    let met = report.planned > 0
        && objective_ms.is_some_and(|ms| ms < plan.objective.within_ms)
        && report.failed() as f64 <= FAILED_MAX * due
        && answered + 10.0 >= KEEPS_UP * due
        && !report.cut_short;
    StepReport {
        rate,
        planned: report.planned,
        goodput: report.goodput,
        failed: report.failed(),
        failures: report.failures.clone().into_iter().collect(),
        p50_ms: report.latency_ms(0.5),
        p95_ms: report.latency_ms(0.95),
        p99_ms: report.latency_ms(0.99),
        objective_ms,
        max_ms: report.latency_us.max() as f64 / 1_000.0,
        met,
        cut_short: report.cut_short,
        lag_p99_ms: report.lag_p99.as_secs_f64() * 1_000.0,
        generator_cpu: report.cpu,
        own: Vec::new(),
        cpu: Vec::new(),
    }
}

/// Notes where requests were in a step, and what they cost.
fn seen_inside(step: &mut StepReport, windows: &[Window]) {
    let whole = Window::merge(windows).unwrap_or_default();
    let own = |service: &bottleneck::Service| {
        let elsewhere: f64 = service.calls.values().map(|call| call.in_flight).sum();
        (service.in_flight - elsewhere).max(0.0)
    };
    let cpu = |service: &bottleneck::Service| service.instances.values().map(|instance| instance.cpu).sum();
    step.own = whole
        .services
        .iter()
        .map(|(name, service)| (name.clone(), own(service)))
        .collect();
    step.cpu = whole
        .services
        .iter()
        .map(|(name, service)| (name.clone(), cpu(service)))
        .collect();
}

fn judge(
    plan: &Plan,
    target: &Target,
    status: &Status,
    steps: Vec<Done>,
    ended: Ended,
    began: String,
    took: Duration,
) -> Outcome {
    let unmet = steps
        .iter()
        .filter(|done| !done.report.met && done.report.tells())
        .map(|done| done.report.rate)
        .min_by(f64::total_cmp);
    let met = steps
        .iter()
        .filter(|done| done.report.met && done.report.tells() && unmet.is_none_or(|unmet| done.report.rate < unmet))
        .map(|done| done.report.rate)
        .max_by(f64::total_cmp);
    let quiet = quiet(&steps, met);
    let baseline = Baseline::learn(&quiet);
    // The worst step that could be looked at; if all were met, the last.
    let worst = steps
        .iter()
        .filter(|done| !done.report.met && done.report.tells() && done.windows.len() >= 2)
        .max_by(|a, b| a.report.rate.total_cmp(&b.report.rate))
        .or_else(|| {
            steps
                .iter()
                .skip(1)
                .max_by(|a, b| a.report.rate.total_cmp(&b.report.rate))
        });
    let verdict = worst.and_then(|done| diagnose(&done.windows, &baseline, !done.report.met));
    let all: Vec<Window> = steps.iter().flat_map(|done| done.windows.iter().cloned()).collect();
    let evidence = Evidence {
        service: &plan.service,
        windows: &all,
        met: met.unwrap_or(0.0),
        unmet,
        verdict: verdict.as_ref(),
        limited: worst.map_or(&[], |done| &done.windows),
        status,
    };
    let saturation = if met.is_some() {
        predictions::saturations(&evidence)
    } else {
        Vec::new()
    };
    let (one_more, after_losses) = if met.is_some() {
        predictions::changes(&evidence)
    } else {
        (None, Vec::new())
    };
    let (knee, scalability) = curves(plan, &steps);
    Outcome {
        version: api::VERSION,
        service: plan.service.clone(),
        request: in_words(&plan.request),
        address: target.address.to_string(),
        objective: plan.objective.to_string(),
        objective_ms: plan.objective.within_ms,
        began,
        took_s: took.as_secs_f64(),
        ended,
        largest: met.map(|load| Largest { load, unmet }),
        knee,
        scalability,
        distrust: distrust(&steps),
        bottleneck: verdict.as_ref().zip(worst).map(|(verdict, done)| Limits {
            rate: done.report.rate,
            summary: verdict.to_string(),
            signs: verdict.signs.iter().map(ToString::to_string).collect(),
            excess: verdict.excess,
            suspects: verdict.suspects.iter().map(Into::into).collect(),
            shares: verdict.shares.clone().into_iter().collect(),
        }),
        saturation,
        one_more,
        after_losses,
        steps: steps.into_iter().map(|done| done.report).collect(),
    }
}

/// What was measured while little was asked: it shows what is usual. Without any so low, the lowest rate that was met, and without that
/// the lowest of all.
fn quiet(steps: &[Done], met: Option<f64>) -> Vec<Window> {
    let lowest = |met: bool| {
        let steps = steps.iter().filter(|done| done.report.met || !met);
        steps.map(|done| done.report.rate).min_by(f64::total_cmp)
    };
    let lowest = lowest(true).or(lowest(false)).unwrap_or(0.0);
    let little = met.map_or(0.0, |met| 0.5 * met);
    steps
        .iter()
        .filter(|done| done.report.rate <= lowest.max(little))
        .flat_map(|done| done.windows.iter().cloned())
        .collect()
}

/// Where latency bends, and the law of scalability.
fn curves(plan: &Plan, steps: &[Done]) -> (Option<f64>, Option<Scalability>) {
    let mut by_rate: Vec<&Done> = steps.iter().collect();
    by_rate.sort_by(|a, b| a.report.rate.total_cmp(&b.report.rate));
    // Beyond the first that is lost the queue has no bound, and would outshine every bend.
    let lost = by_rate
        .iter()
        .position(|done| !done.report.met)
        .map_or(by_rate.len(), |at| at + 1);
    let latency: Vec<(f64, f64)> = by_rate[..lost]
        .iter()
        .filter_map(|done| {
            Some((
                done.report.rate,
                done.report.p95_ms?.min(3.0 * plan.objective.within_ms),
            ))
        })
        .collect();
    let inside: Vec<(f64, f64)> = by_rate
        .iter()
        .filter_map(|done| {
            let service = Window::merge(&done.windows)?.services.get(&plan.service)?.clone();
            Some((service.in_flight, service.completions))
        })
        .collect();
    let law = usl::fit(&inside).map(|law| Scalability {
        gamma: law.gamma,
        sigma: law.sigma,
        kappa: law.kappa,
        turning_point: law.turning_point(),
    });
    (knee(&latency, Bend::Steepens), law)
}

fn distrust(steps: &[Done]) -> Vec<String> {
    let mut why = Vec::new();
    let late = steps
        .iter()
        .filter(|done| done.report.lag_p99_ms > LAG_MAX.as_secs_f64() * 1_000.0)
        .count();
    if late > 0 {
        let worst = steps.iter().map(|done| done.report.lag_p99_ms).fold(0.0, f64::max);
        why.push(format!(
            "the generator sent late in {late} of {} steps, by up to {worst:.1} ms (p99)",
            steps.len()
        ));
    }
    let busy = steps.iter().map(|done| done.report.generator_cpu).fold(0.0, f64::max);
    if busy > CPU_MAX {
        why.push(format!("the generator used {:.0} % of a processor", busy * 100.0));
    }
    let dropped = steps.iter().filter(|done| {
        done.report.planned > 0 && done.report.failures.iter().map(|(_, n)| n).sum::<u64>() < done.report.failed
    });
    if dropped.count() > 0 {
        why.push("requests were not sent because too many were under way".into());
    }
    if steps.iter().any(|done| done.windows.is_empty()) {
        why.push("of some steps the agent had no figures".into());
    }
    why
}

/// With three digits or so.
pub(crate) fn number(rate: f64) -> String {
    if rate < 10.0 {
        format!("{rate:.1}")
    } else {
        format!("{rate:.0}")
    }
}

#[cfg(test)]
mod tests {
    use super::first;
    use std::time::Duration;

    #[test]
    fn a_step_before_the_one_that_was_asked_for_has_requests_enough_to_show_something() {
        let two = Duration::from_secs(2);
        assert_eq!(first(1_000.0, two), Some(100.0), "a tenth");
        assert_eq!(first(20.0, two), Some(10.0), "twenty of them are due in two seconds");
        assert_eq!(first(5.0, two), None, "there is no lower rate that shows anything");
        assert_eq!(first(5.0, Duration::from_secs(20)), Some(1.0));
    }
}
