// CoreDNS with only the plugins that a cluster without a route out needs: it has
// no forwarder, so a name that the cluster does not know is answered here.
package main

import (
	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/coremain"

	_ "github.com/coredns/coredns/plugin/cache"
	_ "github.com/coredns/coredns/plugin/errors"
	_ "github.com/coredns/coredns/plugin/health"
	_ "github.com/coredns/coredns/plugin/kubernetes"
	_ "github.com/coredns/coredns/plugin/log"
	_ "github.com/coredns/coredns/plugin/ready"
	_ "github.com/coredns/coredns/plugin/template"
)

func main() {
	// A query passes the plugins in this order, whatever the order of the Corefile.
	dnsserver.Directives = []string{
		"health", "ready", "errors", "log", "cache", "kubernetes", "template",
	}
	coremain.Run()
}
