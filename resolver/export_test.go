package resolver

import "time"

// HostsDelay sets how long a server holds calls of Hosts at its start; negative: not at all.
func (c *ServerConfig) HostsDelay(d time.Duration) { c.limits.hostsDelay = d }
