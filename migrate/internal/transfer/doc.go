// Package transfer moves snapshots between hosts: [Offers] holds captured snapshots until another host has fetched them, and
// [Fetcher] fetches them. Each fetch has a connection of its own, so that no other message waits behind a snapshot.
package transfer
