//! Expressions of probabilities. Of random deviates the mean is taken: what a point estimate is.

use super::Mistake;
use super::scan::Place;

/// Hours that the system is to do its work, where the model asks for them: a year, as other tools assume.
pub(super) const MISSION_HOURS: f64 = 8_760.0;

/// An expression.
#[derive(Debug, Clone)]
pub(super) enum Expression {
    Number(f64),
    Parameter(String, Place),
    MissionTime,
    Call(Function, Vec<Expression>, Place),
}

/// What can be called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Function {
    Negate,
    Add,
    Subtract,
    Multiply,
    Divide,
    Power,
    Modulo,
    Least,
    Greatest,
    Mean,
    Exp,
    Ln,
    Log10,
    SquareRoot,
    Absolute,
    Floor,
    Ceiling,
    Exponential,
    Glm,
    Weibull,
    PeriodicTest,
    Uniform,
    Normal,
    Lognormal,
    Gamma,
    Beta,
    Histogram,
}

/// Names, functions, and how many parts they take.
const FUNCTIONS: [(&str, Function, usize, usize); 27] = [
    ("neg", Function::Negate, 1, 1),
    ("add", Function::Add, 1, usize::MAX),
    ("sub", Function::Subtract, 1, usize::MAX),
    ("mul", Function::Multiply, 1, usize::MAX),
    ("div", Function::Divide, 2, usize::MAX),
    ("pow", Function::Power, 2, 2),
    ("mod", Function::Modulo, 2, 2),
    ("min", Function::Least, 1, usize::MAX),
    ("max", Function::Greatest, 1, usize::MAX),
    ("mean", Function::Mean, 1, usize::MAX),
    ("exp", Function::Exp, 1, 1),
    ("log", Function::Ln, 1, 1),
    ("log10", Function::Log10, 1, 1),
    ("sqrt", Function::SquareRoot, 1, 1),
    ("abs", Function::Absolute, 1, 1),
    ("floor", Function::Floor, 1, 1),
    ("ceil", Function::Ceiling, 1, 1),
    ("exponential", Function::Exponential, 2, 2),
    ("GLM", Function::Glm, 4, 4),
    ("Weibull", Function::Weibull, 4, 4),
    ("periodic-test", Function::PeriodicTest, 4, 5),
    ("uniform-deviate", Function::Uniform, 2, 2),
    ("normal-deviate", Function::Normal, 2, 2),
    ("lognormal-deviate", Function::Lognormal, 2, 3),
    ("gamma-deviate", Function::Gamma, 2, 2),
    ("beta-deviate", Function::Beta, 2, 2),
    ("histogram", Function::Histogram, 3, usize::MAX),
];

impl Expression {
    pub(super) fn call(name: &str, parts: Vec<Expression>, place: Place) -> Result<Self, Mistake> {
        let Some((_, function, least, most)) = FUNCTIONS.into_iter().find(|(known, ..)| *known == name) else {
            let help = "numbers, parameters, arithmetic, exponential, GLM, Weibull, periodic-test and deviates are";
            return Err(place
                .mistake(format!("`{name}` is not understood in an expression"))
                .help(help));
        };
        if parts.len() < least || parts.len() > most {
            return Err(place.mistake(format!("`{name}` does not take {} parts", parts.len())));
        }
        Ok(Self::Call(function, parts, place))
    }

    /// Its value; `parameter` gives those of parameters.
    pub(super) fn value(
        &self,
        parameter: &mut dyn FnMut(&str, &Place) -> Result<f64, Mistake>,
    ) -> Result<f64, Mistake> {
        match self {
            Self::Number(value) => Ok(*value),
            Self::MissionTime => Ok(MISSION_HOURS),
            Self::Parameter(name, place) => parameter(name, place),
            Self::Call(function, parts, place) => {
                let values: Result<Vec<f64>, Mistake> = parts.iter().map(|part| part.value(parameter)).collect();
                let value = function.of(&values?);
                match value.is_finite() {
                    true => Ok(value),
                    false => Err(place.mistake("this has no value: a division by zero, or a number out of range")),
                }
            }
        }
    }
}

impl Function {
    fn of(self, parts: &[f64]) -> f64 {
        let first = parts.first().copied().unwrap_or_default();
        let rest = parts.get(1..).unwrap_or_default();
        match self {
            Self::Negate => -first,
            Self::Add => parts.iter().sum(),
            Self::Subtract => rest.iter().fold(first, |left, right| left - right),
            Self::Multiply => parts.iter().product(),
            Self::Divide => rest.iter().fold(first, |left, right| left / right),
            Self::Power => first.powf(parts[1]),
            Self::Modulo => first % parts[1],
            Self::Least => parts.iter().copied().fold(f64::INFINITY, f64::min),
            Self::Greatest => parts.iter().copied().fold(f64::NEG_INFINITY, f64::max),
            Self::Mean => parts.iter().sum::<f64>() / parts.len() as f64,
            Self::Exp => first.exp(),
            Self::Ln => first.ln(),
            Self::Log10 => first.log10(),
            Self::SquareRoot => first.sqrt(),
            Self::Absolute => first.abs(),
            Self::Floor => first.floor(),
            Self::Ceiling => first.ceil(),
            Self::Exponential => failed_by(first, parts[1]),
            Self::Glm => {
                // Fails at the demand with γ; from then on at λ, repaired at μ.
                let (gamma, lambda, mu, time) = (first, parts[1], parts[2], parts[3]);
                let rate = lambda + mu;
                (lambda - (lambda - gamma * rate) * (-rate * time).exp()) / rate
            }
            Self::Weibull => {
                let (scale, shape, start, time) = (first, parts[1], parts[2], parts[3]);
                if time <= start {
                    0.0
                } else {
                    -(-((time - start) / scale).powf(shape)).exp_m1()
                }
            }
            Self::PeriodicTest => periodic(parts),
            Self::Uniform => f64::midpoint(first, parts[1]),
            Self::Normal => first,
            Self::Lognormal if parts.len() == 3 => first,
            Self::Lognormal => (first + parts[1] * parts[1] / 2.0).exp(),
            Self::Gamma => first * parts[1],
            Self::Beta => first / (first + parts[1]),
            Self::Histogram => {
                let (mut low, mut sum, mut weights) = (first, 0.0, 0.0);
                for bin in rest.chunks_exact(2) {
                    sum += f64::midpoint(low, bin[0]) * bin[1];
                    weights += bin[1];
                    low = bin[0];
                }
                sum / weights
            }
        }
    }
}

/// 1 − e^(−λt), exact also where that is tiny.
fn failed_by(rate: f64, time: f64) -> f64 {
    -(-rate * time).exp_m1()
}

/// Failed unnoticed since the last test; with a rate of repair, what a test found is being repaired.
fn periodic(parts: &[f64]) -> f64 {
    let (rate, repair, every, first, time) = match parts {
        [rate, every, first, time] => (*rate, None, *every, *first, *time),
        [rate, repair, every, first, time] => (*rate, Some(*repair), *every, *first, *time),
        _ => return f64::NAN,
    };
    if time <= first {
        return failed_by(rate, time);
    }
    let since = (time - first) % every;
    let Some(repair) = repair else {
        return failed_by(rate, if since == 0.0 { every } else { since });
    };
    // Found failed, and after so long still in repair, or repaired and failed again.
    let still = |t: f64| {
        let again = if (repair - rate).abs() < 1e-12 * repair {
            failed_by(repair, t) - repair * t * (-repair * t).exp()
        } else {
            failed_by(repair, t) - repair * ((-rate * t).exp() - (-repair * t).exp()) / (repair - rate)
        };
        (-repair * t).exp() + again
    };
    let later = |failed: f64, t: f64| failed * still(t) + (1.0 - failed) * failed_by(rate, t);
    let mut failed = failed_by(rate, first);
    // A test more often than a million times in a mission changes nothing any more.
    let periods = ((time - first) / every).floor().min(1e6) as u64;
    for _ in 0..periods {
        failed = later(failed, every);
    }
    later(failed, since)
}
