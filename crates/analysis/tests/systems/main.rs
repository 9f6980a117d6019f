//! Whole systems: what takes which service down, what mends it, and how often it is to be expected.

mod files;
mod logic;
mod nines;
mod seen;
