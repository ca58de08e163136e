//! Proofs about a whole policy set, for every request that there can be. Cedar's symbolic compiler
//! (cedar-policy-symcc) writes the question down, the solver cvc5 answers it, and what it answers
//! with an example is asked of the authorizer itself before anybody is told.

mod counterexample;
mod facts;

use std::time::Duration;

use cedar_policy::{
    Authorizer, Decision, Effect, Entities, EntityUid, Policy, PolicyId, PolicySet as Set, Request,
    RequestEnv, Schema,
};
use cedar_policy_symcc::solver::LocalSolver;
use cedar_policy_symcc::{CedarSymCompiler, CompiledPolicySet, Env, err};
use serde::Serialize;
use tokio::process::Command;

use super::engine::schema;
use super::{APPROVE, Engine, Invariant, PolicySet};
pub use counterexample::Counterexample;
use facts::{FACT, facts};

/// How long the solver may think about one question.
const PATIENCE: Duration = Duration::from_secs(20);

/// What came out of an invariant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Proof {
    /// The invariant.
    pub invariant: String,
    /// What it says.
    pub says: String,
    /// Whether it holds.
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// Whether something holds for every request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "outcome", rename_all = "kebab-case")]
pub enum Outcome {
    /// It does.
    Proven,
    /// It does not.
    Broken {
        /// For this request, for one.
        example: Box<Counterexample>,
    },
    /// It can't be told.
    Undecided {
        /// Why.
        why: String,
    },
}

/// A difference between two policy sets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// The role, `approving` and the role, or the act of administration.
    pub about: String,
    /// Whether the new set permits what the old did not; the other way round otherwise.
    pub more: bool,
    /// What it is, for one.
    pub outcome: Outcome,
}

/// Why nothing can be proven.
#[derive(Debug, thiserror::Error)]
pub enum ProveError {
    /// There is no solver.
    #[error(
        "the solver cvc5 can't be started ({0}): install it (Debian: apt-get install cvc5) and see \
         that it is in PATH"
    )]
    NoSolver(String),
    /// The solver, or what asks it, failed.
    #[error("a proof failed: {0}")]
    Failed(String),
}

/// A solver at work.
pub struct Prover {
    compiler: CedarSymCompiler<LocalSolver>,
    schema: Schema,
}

impl Prover {
    /// Starts the solver.
    ///
    /// # Errors
    /// When there is none.
    pub fn start() -> Result<Self, ProveError> {
        let mut command = Command::new("cvc5");
        let limit = format!("--tlimit-per={}", PATIENCE.as_millis());
        command
            .args(["--lang", "smt", "--incremental", &limit])
            // It needs nothing of what a server's environment holds.
            .env_clear()
            .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
            .kill_on_drop(true);
        let no_solver = |error: String| ProveError::NoSolver(error);
        let solver = LocalSolver::from_command(&mut command)
            .map_err(|error| no_solver(error.to_string()))?;
        let compiler =
            CedarSymCompiler::new(solver).map_err(|error| no_solver(error.to_string()))?;
        Ok(Self {
            compiler,
            schema: schema(),
        })
    }

    /// Holds a policy set against its invariants.
    ///
    /// # Errors
    /// When the solver fails.
    pub async fn prove(&mut self, policy: &PolicySet) -> Result<Vec<Proof>, ProveError> {
        let mut proofs = Vec::new();
        let facts = facts(&policy.roles, None);
        for invariant in &policy.invariants {
            proofs.push(Proof {
                invariant: invariant.id.clone(),
                says: invariant.says.clone(),
                outcome: self.prove_one(&policy.engine, &facts, invariant).await?,
            });
        }
        Ok(proofs)
    }

    async fn prove_one(
        &mut self,
        engine: &Engine,
        facts: &[Policy],
        invariant: &Invariant,
    ) -> Result<Outcome, ProveError> {
        let permitted = set(engine.policies().iter().chain(facts))?;
        let holds = set([&invariant.policy])?;
        for env in self.envs() {
            if !invariant.is_about(env.action()) {
                continue;
            }
            let outcome = self.implies(&env, &permitted, &holds, engine).await?;
            if outcome != Outcome::Proven {
                return Ok(outcome);
            }
        }
        Ok(Outcome::Proven)
    }

    /// What a change of the policies changes, with one example for each role and each act.
    ///
    /// # Errors
    /// When the solver fails.
    pub async fn compare(
        &mut self,
        old: &PolicySet,
        new: &PolicySet,
    ) -> Result<Vec<Difference>, ProveError> {
        let mut names: Vec<&str> = [old, new]
            .iter()
            .flat_map(|set| set.roles.iter().map(|role| role.name.as_str()))
            .collect();
        names.sort_unstable();
        names.dedup();
        let mut differences = Vec::new();
        for env in self.envs() {
            let action = env.action().id().unescaped().to_owned();
            let abouts = if ["request", APPROVE].contains(&action.as_str()) {
                names.iter().map(|name| Some(*name)).collect()
            } else {
                vec![None]
            };
            for about in abouts {
                let with = |policy: &PolicySet| {
                    let facts = facts(&policy.roles, about);
                    set(policy.engine.policies().iter().chain(&facts))
                };
                let (before, after) = (with(old)?, with(new)?);
                for (more, one, other, engine) in [
                    (true, &after, &before, &new.engine),
                    (false, &before, &after, &old.engine),
                ] {
                    let about = match about {
                        Some(name) if action == APPROVE => format!("approving {name}"),
                        about => about.unwrap_or(&action).to_owned(),
                    };
                    let known = differences
                        .iter()
                        .any(|known: &Difference| known.about == about && known.more == more);
                    if known {
                        continue;
                    }
                    let outcome = self.implies(&env, one, other, engine).await?;
                    if outcome != Outcome::Proven {
                        differences.push(Difference {
                            about,
                            more,
                            outcome,
                        });
                    }
                }
            }
        }
        Ok(differences)
    }

    /// Policies that apply to no request, by their ids.
    ///
    /// # Errors
    /// When the solver fails.
    pub async fn never_applying(&mut self, policy: &PolicySet) -> Result<Vec<String>, ProveError> {
        let facts = facts(&policy.roles, None);
        let mut never = Vec::new();
        for one in policy.engine.policies() {
            let permit = as_permit(one)?;
            if self
                .permits_nothing(&set([&permit].into_iter().chain(&facts))?, one)
                .await?
            {
                never.push(one.id().to_string());
            }
        }
        Ok(never)
    }

    /// Roles that nobody can get, with the purposes that they can't be had for.
    ///
    /// # Errors
    /// When the solver fails.
    pub async fn unobtainable(
        &mut self,
        policy: &PolicySet,
    ) -> Result<Vec<(String, String)>, ProveError> {
        let mut unobtainable = Vec::new();
        for role in policy.roles.iter() {
            let facts = facts(&policy.roles, Some(role.name.as_str()));
            for purpose in &role.purposes {
                let text = format!(
                    "forbid (principal, action == Action::\"request\", resource) unless {{ \
                     context.purpose == {:?} }};",
                    purpose.as_str()
                );
                let only = Policy::parse(Some(PolicyId::new(format!("{FACT}purpose"))), text)
                    .map_err(failed)?;
                let policies = policy.engine.policies().iter().chain(&facts).chain([&only]);
                let request: Policy = Policy::parse(
                    None,
                    "permit (principal, action == Action::\"request\", resource);",
                )
                .map_err(failed)?;
                if self.permits_nothing(&set(policies)?, &request).await? {
                    unobtainable.push((role.name.to_string(), purpose.to_string()));
                }
            }
        }
        Ok(unobtainable)
    }

    /// Whether a set permits nothing at all of what the head of a policy is about.
    async fn permits_nothing(&mut self, set: &Set, head: &Policy) -> Result<bool, ProveError> {
        for env in self.envs() {
            if !is_about(head, env.action()) {
                continue;
            }
            let compiled = self.compile(set, &env)?;
            let denies = self.compiler.check_always_denies_opt(&compiled).await;
            if !denies.map_err(failed)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether everything that one set permits is permitted by the other.
    async fn implies(
        &mut self,
        env: &RequestEnv,
        one: &Set,
        other: &Set,
        engine: &Engine,
    ) -> Result<Outcome, ProveError> {
        let (compiled, other_compiled) = (self.compile(one, env)?, self.compile(other, env)?);
        let found = self
            .compiler
            .check_implies_with_counterexample_opt(&compiled, &other_compiled)
            .await;
        match found {
            Ok(None) => Ok(Outcome::Proven),
            Ok(Some(example)) => Ok(replay(&example, one, other, engine)),
            Err(err::Error::SolverUnknown) => Ok(Outcome::Undecided {
                why: format!(
                    "the solver did not find out within {} s",
                    PATIENCE.as_secs()
                ),
            }),
            Err(error) => Err(failed(error)),
        }
    }

    fn compile(&self, set: &Set, env: &RequestEnv) -> Result<CompiledPolicySet, ProveError> {
        CompiledPolicySet::compile(set, env, &self.schema).map_err(failed)
    }

    fn envs(&self) -> Vec<RequestEnv> {
        let mut envs: Vec<RequestEnv> = self.schema.request_envs().collect();
        // What is about people comes first.
        envs.sort_by_key(|env| (env.action().to_string(), env.principal().to_string()));
        envs
    }
}

/// Asks the authorizer itself.
fn replay(example: &Env, one: &Set, other: &Set, engine: &Engine) -> Outcome {
    let Env { request, entities } = example;
    let why = |why: &str| Outcome::Undecided {
        why: format!("the solver's example is none: {why}"),
    };
    // By the policies alone, as when a request comes.
    let verdict = engine.decide_foreign(request, entities);
    if !verdict.allowed {
        return why("a policy fails to evaluate for it, and then nothing is permitted");
    }
    if !permits(one, request, entities) || permits(other, request, entities) {
        return why("the authorizer decides otherwise");
    }
    let matters = Counterexample::TOLD.into_iter().filter(|field| {
        let speaks = |policy: &Policy| {
            let text = policy.to_cedar().unwrap_or_default();
            let written = [format!("context.{field}"), format!("context has {field}")];
            let is_fact = policy.id().to_string().starts_with(FACT);
            !is_fact && written.iter().any(|written| text.contains(written))
        };
        one.policies().chain(other.policies()).any(speaks)
    });
    match Counterexample::new(request, entities, verdict.policies, matters.collect()) {
        Some(example) => Outcome::Broken {
            example: Box::new(example),
        },
        None => why("it can't be read"),
    }
}

fn permits(set: &Set, request: &Request, entities: &Entities) -> bool {
    let response = Authorizer::new().is_authorized(request, set, entities);
    response.decision() == Decision::Allow
}

fn set<'a>(policies: impl IntoIterator<Item = &'a Policy>) -> Result<Set, ProveError> {
    Set::from_policies(policies.into_iter().cloned()).map_err(failed)
}

/// The same policy, permitting where it forbids.
fn as_permit(policy: &Policy) -> Result<Policy, ProveError> {
    if policy.effect() == Effect::Permit {
        return Ok(policy.clone());
    }
    let mut written = policy.to_json().map_err(failed)?;
    written["effect"] = "permit".into();
    Policy::from_json(Some(policy.id().clone()), written).map_err(failed)
}

fn is_about(policy: &Policy, action: &EntityUid) -> bool {
    use cedar_policy::ActionConstraint;
    match policy.action_constraint() {
        ActionConstraint::Any => true,
        ActionConstraint::Eq(one) => one == *action,
        ActionConstraint::In(some) => some.contains(action),
    }
}

fn failed(error: impl std::fmt::Display) -> ProveError {
    ProveError::Failed(error.to_string())
}
