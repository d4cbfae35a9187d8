// Package outside holds tests only: a Transport and a Resolver that use public names alone, as those of other modules do,
// pass the conformance suites and carry a service of package migrate.
package outside
