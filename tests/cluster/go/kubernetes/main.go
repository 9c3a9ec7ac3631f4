// All of Kubernetes' own programs in one binary that looks at the name it was
// called by: they share almost all their packages, so one link is much smaller
// and quicker to build than six.
package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	"k8s.io/component-base/cli"
	_ "k8s.io/component-base/metrics/prometheus/clientgo"
	_ "k8s.io/component-base/metrics/prometheus/version"
	kubectl "k8s.io/kubectl/pkg/cmd"
	kubectlutil "k8s.io/kubectl/pkg/cmd/util"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	controllers "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	proxy "k8s.io/kubernetes/cmd/kube-proxy/app"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"
	kubelet "k8s.io/kubernetes/cmd/kubelet/app"
)

func command(name string) *cobra.Command {
	switch name {
	case "kube-apiserver":
		return apiserver.NewAPIServerCommand()
	case "kube-controller-manager":
		return controllers.NewControllerManagerCommand()
	case "kube-scheduler":
		return scheduler.NewSchedulerCommand()
	case "kube-proxy":
		return proxy.NewProxyCommand()
	case "kubelet":
		return kubelet.NewKubeletCommand(context.Background())
	case "kubectl":
		return kubectl.NewDefaultKubectlCommand()
	case "local-volumes":
		return newVolumesCommand()
	}
	return nil
}

func main() {
	name := filepath.Base(os.Args[0])
	cmd := command(name)
	if cmd == nil {
		fmt.Fprintf(os.Stderr, "%s is not a component: call this program by the name of one\n", name)
		os.Exit(2)
	}
	os.Exit(run(name, cmd))
}

// The servers leave their exit code to the caller; kubectl knows its own errors
// and how each is to be shown.
func run(name string, cmd *cobra.Command) int {
	if name != "kubectl" {
		return cli.Run(cmd)
	}
	kubectlutil.CheckErr(cli.RunNoErrOutput(cmd))
	return 0
}
