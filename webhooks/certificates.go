package webhooks

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/open-policy-agent/cert-controller/pkg/rotator"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/healthz"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/webhook"
)

// The objects of config/webhook.
const (
	// ConfigurationName names the MutatingWebhookConfiguration and the ValidatingWebhookConfiguration.
	ConfigurationName = "tidelock"
	// SecretName names the Secret with the certificate, ServiceName the Service; both are in the operator's namespace.
	SecretName  = "tidelock-webhook-cert"
	ServiceName = "tidelock-webhook"
	// caKey is where the Secret holds the CA.
	caKey = "ca.crt"
)

// Server is a webhook server that makes and rotates its certificate by itself. It begins to listen once it has one.
type Server struct {
	webhook.Server
	directory string
	certified chan struct{}
	once      sync.Once
}

// NewServer makes the server of a manager. directory is where the certificate is written to: the server watches it.
func NewServer(host string, port int, directory string) *Server {
	return &Server{
		Server:    webhook.NewServer(webhook.Options{Host: host, Port: port, CertDir: directory}),
		directory: directory,
		certified: make(chan struct{}),
	}
}

// Start implements manager.Runnable. The certificate comes from the cluster a moment after the start, and the server
// gives up without one.
func (s *Server) Start(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-s.certified:
		return s.Server.Start(ctx)
	}
}

// SecretCache selects, for the manager's cache, the one Secret that the server needs.
func SecretCache(namespace string) cache.ByObject {
	return cache.ByObject{Namespaces: map[string]cache.Config{
		namespace: {FieldSelector: fields.OneTermEqualSelector(metav1.ObjectNameField, SecretName)},
	}}
}

// +kubebuilder:rbac:groups="",resources=secrets,verbs=create;get;list;watch,namespace=tidelock-system
// +kubebuilder:rbac:groups="",resources=secrets,verbs=update,resourceNames=tidelock-webhook-cert,namespace=tidelock-system
// +kubebuilder:rbac:groups=admissionregistration.k8s.io,resources=mutatingwebhookconfigurations;validatingwebhookconfigurations,verbs=get;list;watch
// +kubebuilder:rbac:groups=admissionregistration.k8s.io,resources=mutatingwebhookconfigurations;validatingwebhookconfigurations,verbs=update,resourceNames=tidelock

// SetupCertificates makes the leader keep a certificate in the Secret and its CA in the webhook configurations, and every
// replica write the Secret's certificate to the server's directory. So nothing waits for the kubelet to mount the Secret,
// and it works without a kubelet.
func (s *Server) SetupCertificates(ctx context.Context, mgr ctrl.Manager, namespace string) error {
	key := types.NamespacedName{Namespace: namespace, Name: SecretName}
	if err := ensureSecret(ctx, mgr, key); err != nil {
		return err
	}
	if err := os.MkdirAll(s.directory, 0o700); err != nil {
		return fmt.Errorf("making the directory for the webhook's certificate: %w", err)
	}
	err := ctrl.NewControllerManagedBy(mgr).
		Named("webhook-certificate").
		For(&corev1.Secret{}).
		WithOptions(controller.Options{NeedLeaderElection: ptr.To(false)}).
		Complete(reconcile.Func(func(ctx context.Context, request reconcile.Request) (reconcile.Result, error) {
			return reconcile.Result{}, s.write(ctx, mgr.GetClient(), request.NamespacedName)
		}))
	if err != nil {
		return fmt.Errorf("watching the webhook's certificate: %w", err)
	}
	err = rotator.AddRotator(mgr, &rotator.CertRotator{
		SecretKey:      key,
		CertDir:        s.directory,
		CAName:         "tidelock",
		CAOrganization: "tidelock",
		DNSName:        ServiceName + "." + namespace + ".svc",
		ExtraDNSNames:  []string{"localhost"},
		IsReady:        make(chan struct{}),
		Webhooks: []rotator.WebhookInfo{
			{Name: ConfigurationName, Type: rotator.Mutating}, {Name: ConfigurationName, Type: rotator.Validating},
		},
		FieldOwner:            "tidelock-certificates",
		RequireLeaderElection: true,
	})
	if err != nil {
		return fmt.Errorf("rotating the webhook's certificate: %w", err)
	}
	return nil
}

// ensureSecret makes the empty Secret that the rotator fills. An installation by manifests has it already.
func ensureSecret(ctx context.Context, mgr ctrl.Manager, key types.NamespacedName) error {
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: key.Namespace, Name: key.Name}}
	err := mgr.GetAPIReader().Get(ctx, key, secret)
	if apierrors.IsNotFound(err) {
		err = client.IgnoreAlreadyExists(mgr.GetClient().Create(ctx, secret))
	}
	if err != nil {
		return fmt.Errorf("preparing the Secret for the webhook's certificate: %w", err)
	}
	return nil
}

// readyPatience is how long a replica calls itself unready for want of a webhook that works.
const readyPatience = time.Minute

// ReadyChecker makes the check that the API server can call the webhook. It holds back only at the start, and not for
// ever: the registry in the same Pod is not to go down with the webhook.
func (s *Server) ReadyChecker(mgr ctrl.Manager, namespace string) healthz.Checker {
	deadline := time.Now().Add(readyPatience)
	var ready atomic.Bool
	return func(r *http.Request) error {
		if ready.Load() || time.Now().After(deadline) {
			return nil
		}
		if err := s.StartedChecker()(r); err != nil {
			return err
		}
		if err := trusted(r.Context(), mgr, namespace); err != nil {
			return err
		}
		ready.Store(true)
		return nil
	}
}

// trusted tells whether the API server knows the CA of the certificate, as far as it has the webhook configurations at all.
func trusted(ctx context.Context, mgr ctrl.Manager, namespace string) error {
	configured, err := configuredCAs(ctx, mgr.GetAPIReader())
	if err != nil || len(configured) == 0 {
		return err
	}
	var secret corev1.Secret
	if err := mgr.GetClient().Get(ctx, client.ObjectKey{Namespace: namespace, Name: SecretName}, &secret); err != nil {
		return err
	}
	for _, ca := range configured {
		if len(ca) == 0 || !bytes.Equal(ca, secret.Data[caKey]) {
			return errors.New("the webhook's configuration has no certificate authority yet")
		}
	}
	return nil
}

// configuredCAs lists the CA of each webhook in the configurations that are there.
func configuredCAs(ctx context.Context, reader client.Reader) (list [][]byte, err error) {
	key := client.ObjectKey{Name: ConfigurationName}
	var mutating admissionregistrationv1.MutatingWebhookConfiguration
	if err := reader.Get(ctx, key, &mutating); client.IgnoreNotFound(err) != nil {
		return nil, err
	}
	for _, hook := range mutating.Webhooks {
		list = append(list, hook.ClientConfig.CABundle)
	}
	var validating admissionregistrationv1.ValidatingWebhookConfiguration
	if err := reader.Get(ctx, key, &validating); client.IgnoreNotFound(err) != nil {
		return nil, err
	}
	for _, hook := range validating.Webhooks {
		list = append(list, hook.ClientConfig.CABundle)
	}
	return list, nil
}

// write brings the Secret's certificate to the files that the server watches.
func (s *Server) write(ctx context.Context, reader client.Reader, key types.NamespacedName) error {
	var secret corev1.Secret
	if err := reader.Get(ctx, key, &secret); err != nil {
		return client.IgnoreNotFound(err)
	}
	certificate, private := secret.Data[corev1.TLSCertKey], secret.Data[corev1.TLSPrivateKeyKey]
	if len(certificate) == 0 || len(private) == 0 {
		return nil
	}
	// The certificate last: with it the pair is complete again.
	if err := replace(filepath.Join(s.directory, corev1.TLSPrivateKeyKey), private); err != nil {
		return err
	}
	if err := replace(filepath.Join(s.directory, corev1.TLSCertKey), certificate); err != nil {
		return err
	}
	s.once.Do(func() { close(s.certified) })
	return nil
}

// replace writes a file at once: a reader sees the old content or the new.
func replace(path string, content []byte) error {
	temporary := path + ".new"
	if err := os.WriteFile(temporary, content, 0o600); err != nil {
		return fmt.Errorf("writing the webhook's certificate: %w", err)
	}
	if err := os.Rename(temporary, path); err != nil {
		return fmt.Errorf("writing the webhook's certificate: %w", err)
	}
	return nil
}
