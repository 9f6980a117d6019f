//! Cut sets, probabilities and importances against textbook answers, and against trying out every situation.

mod brute;
mod known;
mod random;
