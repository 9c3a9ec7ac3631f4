// A provisioner of local volumes: a directory on the node that the scheduler
// chose becomes a PersistentVolume of type "local", which, unlike a host path,
// is given the pod's fsGroup and is lost with its node like a real local disk.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	core "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/util/workqueue"
)

const (
	provisionerName = "dynomite.io/local-volumes"
	provisionedBy   = "pv.kubernetes.io/provisioned-by"
	selectedNode    = "volume.kubernetes.io/selected-node"
	retryFirst      = 100 * time.Millisecond
	retryMost       = 5 * time.Second
)

type provisioner struct {
	client  kubernetes.Interface
	nodes   string
	queue   workqueue.TypedRateLimitingInterface[string]
	factory informers.SharedInformerFactory
}

func newVolumesCommand() *cobra.Command {
	var kubeconfig, nodes string
	cmd := &cobra.Command{
		Use: "local-volumes",
		RunE: func(cmd *cobra.Command, _ []string) error {
			config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
			if err != nil {
				return err
			}
			client, err := kubernetes.NewForConfig(config)
			if err != nil {
				return err
			}
			return newProvisioner(client, nodes).run(cmd.Context())
		},
	}
	cmd.Flags().StringVar(&kubeconfig, "kubeconfig", "", "how to reach the API server")
	cmd.Flags().StringVar(&nodes, "nodes", "", "directory with one directory per node")
	return cmd
}

func newProvisioner(client kubernetes.Interface, nodes string) *provisioner {
	return &provisioner{
		client: client,
		nodes:  nodes,
		queue: workqueue.NewTypedRateLimitingQueue(
			workqueue.NewTypedItemExponentialFailureRateLimiter[string](retryFirst, retryMost)),
		factory: informers.NewSharedInformerFactory(client, 0),
	}
}

// Claims and volumes share one queue; the kind stands before the key.
func (p *provisioner) run(ctx context.Context) error {
	watch := func(informer cache.SharedIndexInformer, kind string) error {
		enqueue := func(object any) {
			if key, err := cache.MetaNamespaceKeyFunc(object); err == nil {
				p.queue.Add(kind + ":" + key)
			}
		}
		_, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
			AddFunc:    enqueue,
			UpdateFunc: func(_, object any) { enqueue(object) },
		})
		return err
	}
	err := errors.Join(
		watch(p.factory.Core().V1().PersistentVolumeClaims().Informer(), "claim"),
		watch(p.factory.Core().V1().PersistentVolumes().Informer(), "volume"))
	if err != nil {
		return err
	}
	p.factory.Start(ctx.Done())
	p.factory.WaitForCacheSync(ctx.Done())
	for {
		item, ended := p.queue.Get()
		if ended {
			return nil
		}
		if err := p.handle(ctx, item); err != nil {
			fmt.Fprintln(os.Stderr, item, err)
			p.queue.AddRateLimited(item)
		} else {
			p.queue.Forget(item)
		}
		p.queue.Done(item)
	}
}

func (p *provisioner) handle(ctx context.Context, item string) error {
	kind, key, _ := strings.Cut(item, ":")
	namespace, name, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return err
	}
	if kind == "volume" {
		volume, err := p.factory.Core().V1().PersistentVolumes().Lister().Get(name)
		if err != nil {
			return ignoreMissing(err)
		}
		return p.release(ctx, volume)
	}
	claim, err := p.factory.Core().V1().PersistentVolumeClaims().Lister().PersistentVolumeClaims(namespace).Get(name)
	if err != nil {
		return ignoreMissing(err)
	}
	if claim.Status.Phase == core.ClaimBound {
		return p.grow(ctx, claim)
	}
	return p.provision(ctx, claim)
}

func (p *provisioner) provision(ctx context.Context, claim *core.PersistentVolumeClaim) error {
	node := claim.Annotations[selectedNode]
	if claim.Spec.VolumeName != "" || claim.Spec.StorageClassName == nil || node == "" || claim.DeletionTimestamp != nil {
		return nil
	}
	class, err := p.client.StorageV1().StorageClasses().Get(ctx, *claim.Spec.StorageClassName, meta.GetOptions{})
	if err != nil {
		return ignoreMissing(err)
	}
	if class.Provisioner != provisionerName {
		return nil
	}
	// The claim's UID in the name makes a second try find the first one's volume.
	name := "local-" + string(claim.UID)
	path := filepath.Join(p.nodes, node, "volumes", name)
	// Like a freshly made disk of most clouds: a pod without fsGroup may write too.
	if err := errors.Join(os.MkdirAll(path, 0o777), os.Chmod(path, 0o777)); err != nil {
		return err
	}
	policy := core.PersistentVolumeReclaimDelete
	if class.ReclaimPolicy != nil {
		policy = *class.ReclaimPolicy
	}
	volume := &core.PersistentVolume{
		ObjectMeta: meta.ObjectMeta{Name: name, Annotations: map[string]string{provisionedBy: provisionerName}},
		Spec: core.PersistentVolumeSpec{
			Capacity:                      core.ResourceList{core.ResourceStorage: requested(claim)},
			AccessModes:                   claim.Spec.AccessModes,
			PersistentVolumeReclaimPolicy: policy,
			StorageClassName:              class.Name,
			VolumeMode:                    claim.Spec.VolumeMode,
			PersistentVolumeSource:        core.PersistentVolumeSource{Local: &core.LocalVolumeSource{Path: path}},
			ClaimRef: &core.ObjectReference{
				APIVersion: "v1", Kind: "PersistentVolumeClaim",
				Namespace: claim.Namespace, Name: claim.Name, UID: claim.UID,
			},
			NodeAffinity: &core.VolumeNodeAffinity{Required: &core.NodeSelector{
				NodeSelectorTerms: []core.NodeSelectorTerm{{
					MatchExpressions: []core.NodeSelectorRequirement{{
						Key: core.LabelHostname, Operator: core.NodeSelectorOpIn, Values: []string{node},
					}},
				}},
			}},
		},
	}
	_, err = p.client.CoreV1().PersistentVolumes().Create(ctx, volume, meta.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	return err
}

// A directory has no size of its own, so growing a volume is only saying so.
func (p *provisioner) grow(ctx context.Context, claim *core.PersistentVolumeClaim) error {
	volume, err := p.factory.Core().V1().PersistentVolumes().Lister().Get(claim.Spec.VolumeName)
	if err != nil {
		return ignoreMissing(err)
	}
	want := requested(claim)
	if volume.Annotations[provisionedBy] != provisionerName {
		return nil
	}
	if have := volume.Spec.Capacity[core.ResourceStorage]; have.Cmp(want) < 0 {
		volume = volume.DeepCopy()
		volume.Spec.Capacity[core.ResourceStorage] = want
		if _, err := p.client.CoreV1().PersistentVolumes().Update(ctx, volume, meta.UpdateOptions{}); err != nil {
			return err
		}
	}
	if have := claim.Status.Capacity[core.ResourceStorage]; have.Cmp(want) < 0 {
		claim = claim.DeepCopy()
		claim.Status.Capacity = core.ResourceList{core.ResourceStorage: want}
		claim.Status.Conditions = nil
		_, err := p.client.CoreV1().PersistentVolumeClaims(claim.Namespace).UpdateStatus(ctx, claim, meta.UpdateOptions{})
		return err
	}
	return nil
}

func (p *provisioner) release(ctx context.Context, volume *core.PersistentVolume) error {
	if volume.Annotations[provisionedBy] != provisionerName || volume.Spec.Local == nil ||
		volume.Status.Phase != core.VolumeReleased ||
		volume.Spec.PersistentVolumeReclaimPolicy != core.PersistentVolumeReclaimDelete {
		return nil
	}
	// The path comes from the API, which anyone may have edited: only a
	// directory of the form that provision makes is deleted.
	path := filepath.Clean(volume.Spec.Local.Path)
	if inside, err := filepath.Match(filepath.Join(p.nodes, "*", "volumes", volume.Name), path); err != nil || !inside {
		return fmt.Errorf("%s is not one of our directories", path)
	}
	if err := os.RemoveAll(path); err != nil {
		return err
	}
	return ignoreMissing(p.client.CoreV1().PersistentVolumes().Delete(ctx, volume.Name, meta.DeleteOptions{
		Preconditions: meta.NewUIDPreconditions(string(volume.UID)),
	}))
}

func requested(claim *core.PersistentVolumeClaim) resource.Quantity {
	return claim.Spec.Resources.Requests[core.ResourceStorage]
}

func ignoreMissing(err error) error {
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}
