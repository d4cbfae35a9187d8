// Package serve is a host's side of its clients, for one service: it opens their sessions, has their commands ordered,
// answers them when they are applied, and sends events.
//
// [Clients] connects four parts. Each owns its data, and the others use its methods:
//
//   - registry: which session is attached to which connection, and since when a session has had none;
//   - requests: the requests without an answer;
//   - pusher: how far each listener is behind;
//   - crowd: the connections made ahead of a move to this host, and the load of many clients that reconnect.
package serve
