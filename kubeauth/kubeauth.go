// Package kubeauth lets the registry take the identities of a Kubernetes cluster. It asks the API server whose a token is
// (TokenReview), and what that one may do (SubjectAccessReview): so RBAC rules who pulls and pushes. A Cluster is what
// registry/auth.Options.Cluster takes; the registry itself knows nothing of Kubernetes.
package kubeauth

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tidelock/tidelock/registry/auth"
	"github.com/tidelock/tidelock/registry/domain"
)

// What RBAC speaks of. There are no such objects: the rights are on a name in the namespace that owns the organization,
// the repository's path without the organization.
const (
	Group    = "access.tidelock.dev"
	Resource = "repositories"
)

// How long answers are good for, and how they are asked for.
const (
	// reviewFor is how long a token that was good, and what its holder may do, is not asked for again. A revocation takes
	// as long at most.
	reviewFor = time.Minute
	// refusalFor is how long a token that was not good, and what its holder may not do, is not asked for again.
	refusalFor = 10 * time.Second
	// askTimeout bounds a question to the API server.
	askTimeout = 5 * time.Second
	// questions is how many are asked at once.
	questions = 32
	// maxKept bounds the answers of each kind that are kept.
	maxKept = 10_000
)

// Options are the settings of a Cluster.
type Options struct {
	// Audience is what tokens must be for, auth.Service by default. Tokens for the API server are for nobody else.
	Audience string
	// Logger is slog.Default by default.
	Logger *slog.Logger
	// Now is the clock, time.Now by default.
	Now func() time.Time
}

// Cluster asks the API server of a Kubernetes cluster. It is safe for concurrent use.
type Cluster struct {
	client    client.Client
	audience  string
	logger    *slog.Logger
	now       func() time.Time
	slots     chan struct{}
	reviews   *answers[[sha256.Size]byte, review]
	decisions *answers[decisionKey, bool]
}

var _ auth.Cluster = &Cluster{}

// +kubebuilder:rbac:groups=authentication.k8s.io,resources=tokenreviews,verbs=create
// +kubebuilder:rbac:groups=authorization.k8s.io,resources=subjectaccessreviews,verbs=create
// +kubebuilder:rbac:groups="",resources=namespaces,verbs=get

// New makes a Cluster on the way to an API server.
func New(config *rest.Config, options Options) (*Cluster, error) {
	scheme := runtime.NewScheme()
	err := errors.Join(authenticationv1.AddToScheme(scheme), authorizationv1.AddToScheme(scheme), corev1.AddToScheme(scheme))
	if err != nil {
		return nil, err
	}
	// Pulls wait for the answers: they are not to stand in a queue of this side. Caches and slots bound the questions.
	config = rest.CopyConfig(config)
	config.QPS = -1
	c, err := client.New(config, client.Options{Scheme: scheme})
	if err != nil {
		return nil, fmt.Errorf("making a client for the cluster: %w", err)
	}
	return newCluster(c, options), nil
}

func newCluster(c client.Client, options Options) *Cluster {
	if options.Audience == "" {
		options.Audience = auth.Service
	}
	if options.Logger == nil {
		options.Logger = slog.Default()
	}
	if options.Now == nil {
		options.Now = time.Now
	}
	return &Cluster{
		client: c, audience: options.Audience, logger: options.Logger, now: options.Now, slots: make(chan struct{}, questions),
		reviews: newAnswers[[sha256.Size]byte, review](options.Now), decisions: newAnswers[decisionKey, bool](options.Now),
	}
}

// review is what the API server says of a token: whose it is, or why it is refused.
type review struct {
	subject auth.Subject
	refusal string
}

// Review implements auth.Cluster.
func (c *Cluster) Review(ctx context.Context, token string) (auth.Subject, error) {
	expires, err := c.look(token)
	if err != nil {
		return auth.Subject{}, err
	}
	found, err := c.reviews.get(ctx, sha256.Sum256([]byte(token)), func(ctx context.Context) (review, time.Duration, error) {
		found, err := c.review(ctx, token)
		keep := min(reviewFor, expires.Sub(c.now()))
		if found.refusal != "" {
			keep = refusalFor
		}
		return found, keep, err
	})
	if err != nil {
		return auth.Subject{}, c.unavailable("whose a token is", err)
	}
	if found.refusal != "" {
		return auth.Subject{}, domain.Errorf(domain.CodeUnauthorized, "%s", found.refusal)
	}
	found.subject.Expires = expires
	return found.subject, nil
}

// look reads, without belief, what a token says of itself. What cannot be for this registry is not worth a question.
func (c *Cluster) look(token string) (expires time.Time, err error) {
	claims, err := auth.Unverified(token)
	if err != nil {
		return expires, err
	}
	if !slices.Contains(claims.Audience, c.audience) {
		return expires, domain.Errorf(domain.CodeUnauthorized, "the token is not for this registry; make one with kubectl create token --audience %s, or a projected volume with that audience", c.audience)
	}
	if claims.Expiry == nil || !c.now().Before(claims.Expiry.Time()) {
		return expires, domain.Errorf(domain.CodeUnauthorized, "the token has expired, or would never; make one with kubectl create token --audience %s", c.audience)
	}
	return claims.Expiry.Time(), nil
}

// serviceAccountPrefix is how the API server names ServiceAccounts among users.
const serviceAccountPrefix = "system:serviceaccount:"

// credentialID is the extra field that names a token of a ServiceAccount.
const credentialID = "authentication.kubernetes.io/credential-id"

func (c *Cluster) review(ctx context.Context, token string) (review, error) {
	ask := &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: token, Audiences: []string{c.audience}}}
	if err := c.ask(ctx, ask); err != nil {
		return review{}, err
	}
	status := ask.Status
	switch {
	case !status.Authenticated && status.Error != "":
		// The API server tells broken tokens from its own failures only in words.
		c.logger.InfoContext(ctx, "a token was refused", "cause", status.Error)
		return review{refusal: "the token is not valid"}, nil
	case !status.Authenticated || status.User.Username == "":
		return review{refusal: "the token is not valid"}, nil
	case !slices.Contains(status.Audiences, c.audience):
		return review{refusal: "the token is not for this registry"}, nil
	}
	subject := auth.Subject{
		Kind: domain.CallerKubernetesUser, Name: status.User.Username,
		User: status.User.Username, UID: status.User.UID, Groups: status.User.Groups,
	}
	if account, ok := strings.CutPrefix(status.User.Username, serviceAccountPrefix); ok {
		namespace, name, _ := strings.Cut(account, ":")
		subject.Kind, subject.Name = domain.CallerServiceAccount, namespace+"/"+name
	}
	for field, values := range status.User.Extra {
		if subject.Extra == nil {
			subject.Extra = map[string][]string{}
		}
		subject.Extra[field] = values
	}
	if ids := subject.Extra[credentialID]; len(ids) > 0 {
		subject.TokenID = ids[0]
	}
	return review{subject: subject}, nil
}

// decisionKey is what a decision depends on.
type decisionKey struct {
	subject              [sha256.Size]byte
	verb                 auth.Verb
	namespace, uid, name string
}

// Allows implements auth.Cluster.
func (c *Cluster) Allows(ctx context.Context, subject auth.Subject, verb auth.Verb, owner domain.Owner, name string) (bool, error) {
	// Only whom the API server is asked about counts, not the token.
	asked, err := json.Marshal([]any{subject.User, subject.UID, subject.Groups, subject.Extra})
	if err != nil {
		return false, domain.Unavailable(err)
	}
	key := decisionKey{subject: sha256.Sum256(asked), verb: verb, namespace: owner.Namespace, uid: owner.UID, name: name}
	allowed, err := c.decisions.get(ctx, key, func(ctx context.Context) (bool, time.Duration, error) {
		allowed, err := c.decide(ctx, subject, verb, owner, name)
		if allowed {
			return true, reviewFor, err
		}
		return false, refusalFor, err
	})
	if err != nil {
		return false, c.unavailable("what somebody may do", err)
	}
	return allowed, nil
}

func (c *Cluster) decide(ctx context.Context, subject auth.Subject, verb auth.Verb, owner domain.Owner, name string) (bool, error) {
	ask := &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
		User: subject.User, UID: subject.UID, Groups: subject.Groups,
		ResourceAttributes: &authorizationv1.ResourceAttributes{Namespace: owner.Namespace, Verb: string(verb), Group: Group, Version: "*", Resource: Resource, Name: name},
	}}
	for field, values := range subject.Extra {
		if ask.Spec.Extra == nil {
			ask.Spec.Extra = map[string]authorizationv1.ExtraValue{}
		}
		ask.Spec.Extra[field] = values
	}
	if err := c.ask(ctx, ask); err != nil {
		return false, err
	}
	if !ask.Status.Allowed || ask.Status.Denied {
		return false, nil
	}
	return c.stillOwns(ctx, owner)
}

// stillOwns reports whether the namespace is the one that owns the organization, and not another of its name that was
// made since: there somebody else gives the rights. Looked at after the decision, it was the same when that was made.
func (c *Cluster) stillOwns(ctx context.Context, owner domain.Owner) (bool, error) {
	release, err := c.slot(ctx)
	if err != nil {
		return false, err
	}
	defer release()
	namespace := &metav1.PartialObjectMetadata{}
	namespace.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("Namespace"))
	err = c.client.Get(ctx, client.ObjectKey{Name: owner.Namespace}, namespace)
	if apierrors.IsNotFound(err) {
		return false, nil
	}
	return err == nil && string(namespace.UID) == owner.UID, err
}

// ask sends a review, whose status then is the answer.
func (c *Cluster) ask(ctx context.Context, question client.Object) error {
	release, err := c.slot(ctx)
	if err != nil {
		return err
	}
	defer release()
	return c.client.Create(ctx, question)
}

// slot waits until a question may be asked.
func (c *Cluster) slot(ctx context.Context) (release func(), err error) {
	select {
	case c.slots <- struct{}{}:
		return func() { <-c.slots }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// unavailable is the answer where the API server has none.
func (c *Cluster) unavailable(what string, err error) error {
	c.logger.Warn("the API server of the cluster did not say "+what, "error", err)
	e := domain.Unavailable(err)
	e.Message = "the registry cannot find out now " + what + ": the Kubernetes cluster does not answer; try again"
	return e
}
