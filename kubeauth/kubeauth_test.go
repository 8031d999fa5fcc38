package kubeauth

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/tidelock/tidelock/registry/auth"
	"github.com/tidelock/tidelock/registry/domain"
)

// apiServer answers reviews as a test says, and counts them.
type apiServer struct {
	mu sync.Mutex
	// token and access are the answers; down is what all questions fail with.
	token  func(spec authenticationv1.TokenReviewSpec) authenticationv1.TokenReviewStatus
	access func(spec authorizationv1.SubjectAccessReviewSpec) authorizationv1.SubjectAccessReviewStatus
	down   error
	tokens []authenticationv1.TokenReviewSpec
	asked  []authorizationv1.SubjectAccessReviewSpec
	// hold, if there is one, is waited for before each answer.
	hold chan struct{}
}

func (s *apiServer) create(ctx context.Context, _ client.WithWatch, o client.Object, _ ...client.CreateOption) error {
	s.mu.Lock()
	hold, down := s.hold, s.down
	s.mu.Unlock()
	if hold != nil {
		<-hold
	}
	if down != nil {
		return down
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch review := o.(type) {
	case *authenticationv1.TokenReview:
		s.tokens = append(s.tokens, review.Spec)
		review.Status = s.token(review.Spec)
	case *authorizationv1.SubjectAccessReview:
		s.asked = append(s.asked, review.Spec)
		review.Status = s.access(review.Spec)
	default:
		return fmt.Errorf("nobody makes a %T", o)
	}
	return ctx.Err()
}

func (s *apiServer) set(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
}

var _ = Describe("A cluster", func() {
	var (
		ctx     = context.Background()
		server  *apiServer
		cluster *Cluster
		objects client.Client
		now     time.Time
		mu      sync.Mutex
		key     *ecdsa.PrivateKey
		owner   = domain.Owner{Namespace: "team-a", UID: "ns-1"}
	)
	clock := func() time.Time {
		mu.Lock()
		defer mu.Unlock()
		return now
	}
	advance := func(d time.Duration) {
		mu.Lock()
		defer mu.Unlock()
		now = now.Add(d)
	}
	sign := func(claims jwt.Claims) string {
		GinkgoHelper()
		signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: key}, nil)
		Expect(err).NotTo(HaveOccurred())
		text, err := jwt.Signed(signer).Claims(claims).Serialize()
		Expect(err).NotTo(HaveOccurred())
		return text
	}
	tokenFor := func(audience string, lifetime time.Duration) string {
		GinkgoHelper()
		return sign(jwt.Claims{Issuer: "https://kubernetes.default.svc", Subject: "any", Audience: jwt.Audience{audience}, Expiry: jwt.NewNumericDate(clock().Add(lifetime))})
	}

	BeforeEach(func() {
		now = time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)
		var err error
		key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		Expect(err).NotTo(HaveOccurred())
		server = &apiServer{
			token: func(authenticationv1.TokenReviewSpec) authenticationv1.TokenReviewStatus {
				return authenticationv1.TokenReviewStatus{Authenticated: true, Audiences: []string{"tidelock"}, User: authenticationv1.UserInfo{
					Username: "system:serviceaccount:team-a:builder", UID: "sa-uid", Groups: []string{"system:serviceaccounts", "system:serviceaccounts:team-a"},
					Extra: map[string]authenticationv1.ExtraValue{
						"authentication.kubernetes.io/credential-id": {"JTI=1"}, "authentication.kubernetes.io/pod-name": {"build-1"},
					},
				}}
			},
			access: func(authorizationv1.SubjectAccessReviewSpec) authorizationv1.SubjectAccessReviewStatus {
				return authorizationv1.SubjectAccessReviewStatus{Allowed: true}
			},
		}
		scheme := runtime.NewScheme()
		Expect(errors.Join(authenticationv1.AddToScheme(scheme), authorizationv1.AddToScheme(scheme), corev1.AddToScheme(scheme))).To(Succeed())
		c := fake.NewClientBuilder().WithScheme(scheme).
			WithObjects(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "team-a", UID: "ns-1"}}).
			WithInterceptorFuncs(interceptor.Funcs{Create: server.create}).Build()
		objects = c
		cluster = newCluster(c, Options{Logger: slog.New(slog.DiscardHandler), Now: clock})
	})

	builder := auth.Subject{
		Kind: domain.CallerServiceAccount, Name: "team-a/builder", TokenID: "JTI=1",
		User: "system:serviceaccount:team-a:builder", UID: "sa-uid", Groups: []string{"system:serviceaccounts", "system:serviceaccounts:team-a"},
		Extra: map[string][]string{"authentication.kubernetes.io/credential-id": {"JTI=1"}, "authentication.kubernetes.io/pod-name": {"build-1"}},
	}

	Describe("asked whose a token is", func() {
		It("knows ServiceAccounts by their names, with all that its authorizer has to know", func() {
			token := tokenFor("tidelock", time.Hour)
			subject, err := cluster.Review(ctx, token)
			Expect(err).NotTo(HaveOccurred())
			expected := builder
			expected.Expires = clock().Add(time.Hour)
			Expect(subject.Expires).To(BeTemporally("==", expected.Expires))
			subject.Expires = expected.Expires
			Expect(subject).To(Equal(expected))
			Expect(server.tokens).To(Equal([]authenticationv1.TokenReviewSpec{{Token: token, Audiences: []string{"tidelock"}}}))
		})

		It("knows other users, never as what the registry has of the same name", func() {
			server.token = func(authenticationv1.TokenReviewSpec) authenticationv1.TokenReviewStatus {
				return authenticationv1.TokenReviewStatus{Authenticated: true, Audiences: []string{"tidelock"}, User: authenticationv1.UserInfo{Username: "admin"}}
			}
			Expect(cluster.Review(ctx, tokenFor("tidelock", time.Hour))).To(And(HaveField("Kind", domain.CallerKubernetesUser), HaveField("Name", "admin")))
		})

		DescribeTable("refuses", func(status authenticationv1.TokenReviewStatus) {
			server.token = func(authenticationv1.TokenReviewSpec) authenticationv1.TokenReviewStatus { return status }
			_, err := cluster.Review(ctx, tokenFor("tidelock", time.Hour))
			Expect(domain.CodeOf(err)).To(Equal(domain.CodeUnauthorized))
		},
			Entry("what is not valid", authenticationv1.TokenReviewStatus{}),
			Entry("what the API server cannot read", authenticationv1.TokenReviewStatus{Error: "broken"}),
			Entry("a token whose audiences are not told", authenticationv1.TokenReviewStatus{Authenticated: true, User: authenticationv1.UserInfo{Username: "u"}}),
			Entry("a token for the API server", authenticationv1.TokenReviewStatus{Authenticated: true, Audiences: []string{"https://kubernetes.default.svc"}, User: authenticationv1.UserInfo{Username: "u"}}),
			Entry("nobody", authenticationv1.TokenReviewStatus{Authenticated: true, Audiences: []string{"tidelock"}}),
		)

		DescribeTable("does not even ask about", func(token func() string, says string) {
			_, err := cluster.Review(ctx, token())
			Expect(domain.CodeOf(err)).To(Equal(domain.CodeUnauthorized))
			Expect(err).To(MatchError(ContainSubstring(says)))
			Expect(server.tokens).To(BeEmpty())
		},
			Entry("a token for the API server's own audience", func() string { return tokenFor("https://kubernetes.default.svc", time.Hour) }, "kubectl create token --audience tidelock"),
			Entry("an old token of a Secret, which has no audience", func() string { return sign(jwt.Claims{Issuer: "kubernetes/serviceaccount"}) }, "--audience tidelock"),
			Entry("one that has expired", func() string { return tokenFor("tidelock", -time.Second) }, "expired"),
			Entry("one that never expires", func() string { return sign(jwt.Claims{Issuer: "x", Audience: jwt.Audience{"tidelock"}}) }, "would never"),
			Entry("what is no token", func() string { return "a.b.c" }, "not valid"),
		)

		It("asks once for 1,000 requests at once, and once a minute", func() {
			token := tokenFor("tidelock", time.Hour)
			server.hold = make(chan struct{})
			var group sync.WaitGroup
			for range 1000 {
				group.Go(func() {
					defer GinkgoRecover()
					_, err := cluster.Review(ctx, token)
					Expect(err).NotTo(HaveOccurred())
				})
			}
			close(server.hold)
			group.Wait()
			Expect(server.tokens).To(HaveLen(1))
			for range 60 {
				advance(time.Second)
				_, err := cluster.Review(ctx, token)
				Expect(err).NotTo(HaveOccurred())
			}
			Expect(server.tokens).To(HaveLen(2))
			_, err := cluster.Review(ctx, tokenFor("tidelock", 2*time.Hour))
			Expect(err).NotTo(HaveOccurred())
			Expect(server.tokens).To(HaveLen(3), "another token")
		})

		It("does not take a token for longer than it is good for", func() {
			token := tokenFor("tidelock", 30*time.Second)
			_, err := cluster.Review(ctx, token)
			Expect(err).NotTo(HaveOccurred())
			advance(30 * time.Second)
			_, err = cluster.Review(ctx, token)
			Expect(domain.CodeOf(err)).To(Equal(domain.CodeUnauthorized))
		})

		It("fails closed: an answer of a minute ago is none, and that there was no answer is not kept", func() {
			token := tokenFor("tidelock", time.Hour)
			_, err := cluster.Review(ctx, token)
			Expect(err).NotTo(HaveOccurred())
			server.set(func() { server.down = errors.New("connection refused") })
			advance(59 * time.Second)
			_, err = cluster.Review(ctx, token)
			Expect(err).NotTo(HaveOccurred())
			advance(time.Second)
			_, err = cluster.Review(ctx, token)
			Expect(domain.CodeOf(err)).To(Equal(domain.CodeUnavailable))
			Expect(err).To(MatchError(ContainSubstring("the Kubernetes cluster does not answer; try again")))
			server.set(func() { server.down = nil })
			_, err = cluster.Review(ctx, token)
			Expect(err).NotTo(HaveOccurred())
		})

		It("asks again about a token that was not valid 10 seconds ago", func() {
			valid := server.token
			server.token = func(authenticationv1.TokenReviewSpec) authenticationv1.TokenReviewStatus {
				return authenticationv1.TokenReviewStatus{}
			}
			token := tokenFor("tidelock", time.Hour)
			for range 3 {
				_, err := cluster.Review(ctx, token)
				Expect(domain.CodeOf(err)).To(Equal(domain.CodeUnauthorized))
			}
			Expect(server.tokens).To(HaveLen(1))
			server.token = valid
			advance(10 * time.Second)
			_, err := cluster.Review(ctx, token)
			Expect(err).NotTo(HaveOccurred())
		})

		It("leaves whoever does not wait, and answers the others", func() {
			token := tokenFor("tidelock", time.Hour)
			server.hold = make(chan struct{})
			gone, leave := context.WithCancel(ctx)
			first, second := make(chan error, 1), make(chan error, 1)
			go func() { _, err := cluster.Review(gone, token); first <- err }()
			Eventually(func() int {
				cluster.reviews.mu.Lock()
				defer cluster.reviews.mu.Unlock()
				return len(cluster.reviews.asked)
			}).Should(Equal(1))
			go func() { _, err := cluster.Review(ctx, token); second <- err }()
			leave()
			var err error
			Eventually(first).Should(Receive(&err))
			Expect(err).To(HaveOccurred())
			close(server.hold)
			Eventually(second).Should(Receive(BeNil()))
			Expect(server.tokens).To(HaveLen(1))
		})

		It("keeps a bounded number of answers", func() {
			a := newAnswers[int, bool](clock)
			for i := range maxKept + 10 {
				_, err := a.get(ctx, i, func(context.Context) (bool, time.Duration, error) { return true, time.Minute, nil })
				Expect(err).NotTo(HaveOccurred())
			}
			Expect(len(a.kept)).To(BeNumerically("<=", maxKept))
		})
	})

	Describe("asked what somebody may do", func() {
		It("asks its authorizer, in the namespace that owns the organization, and passes on all that it knows", func() {
			Expect(cluster.Allows(ctx, builder, auth.VerbUpdate, owner, "backend/api")).To(BeTrue())
			Expect(server.asked).To(Equal([]authorizationv1.SubjectAccessReviewSpec{{
				User: "system:serviceaccount:team-a:builder", UID: "sa-uid", Groups: []string{"system:serviceaccounts", "system:serviceaccounts:team-a"},
				Extra: map[string]authorizationv1.ExtraValue{"authentication.kubernetes.io/credential-id": {"JTI=1"}, "authentication.kubernetes.io/pod-name": {"build-1"}},
				ResourceAttributes: &authorizationv1.ResourceAttributes{
					Namespace: "team-a", Verb: "update", Group: "access.tidelock.dev", Version: "*", Resource: "repositories", Name: "backend/api",
				},
			}}))
		})

		It("keeps what is allowed for a minute, what is not for 10 seconds, each for itself", func() {
			allows := func(verb auth.Verb, name string) bool {
				GinkgoHelper()
				allowed, err := cluster.Allows(ctx, builder, verb, owner, name)
				Expect(err).NotTo(HaveOccurred())
				return allowed
			}
			Expect(allows(auth.VerbGet, "app")).To(BeTrue())
			server.access = func(authorizationv1.SubjectAccessReviewSpec) authorizationv1.SubjectAccessReviewStatus {
				return authorizationv1.SubjectAccessReviewStatus{}
			}
			Expect(allows(auth.VerbGet, "app")).To(BeTrue())
			Expect(allows(auth.VerbGet, "web")).To(BeFalse())
			Expect(allows(auth.VerbDelete, "app")).To(BeFalse())
			other := builder
			other.Groups = nil
			Expect(cluster.Allows(ctx, other, auth.VerbGet, owner, "app")).To(BeFalse())
			advance(time.Minute)
			Expect(allows(auth.VerbGet, "app")).To(BeFalse())
			server.access = func(authorizationv1.SubjectAccessReviewSpec) authorizationv1.SubjectAccessReviewStatus {
				return authorizationv1.SubjectAccessReviewStatus{Allowed: true}
			}
			Expect(allows(auth.VerbGet, "app")).To(BeFalse())
			advance(10 * time.Second)
			Expect(allows(auth.VerbGet, "app")).To(BeTrue())
		})

		It("takes no for an answer, also beside a yes", func() {
			server.access = func(authorizationv1.SubjectAccessReviewSpec) authorizationv1.SubjectAccessReviewStatus {
				return authorizationv1.SubjectAccessReviewStatus{Allowed: true, Denied: true}
			}
			Expect(cluster.Allows(ctx, builder, auth.VerbGet, owner, "app")).To(BeFalse())
		})

		It("gives nothing in a namespace that is gone, or was made anew under the name of the one that owns", func() {
			Expect(cluster.Allows(ctx, builder, auth.VerbGet, domain.Owner{Namespace: "team-b", UID: "ns-2"}, "app")).To(BeFalse())
			Expect(cluster.Allows(ctx, builder, auth.VerbGet, domain.Owner{Namespace: "team-a", UID: "ns-0"}, "app")).To(BeFalse())
			Expect(cluster.Allows(ctx, builder, auth.VerbGet, owner, "app")).To(BeTrue())
			Expect(objects.Delete(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "team-a"}})).To(Succeed())
			advance(time.Minute)
			Expect(cluster.Allows(ctx, builder, auth.VerbGet, owner, "app")).To(BeFalse())
		})

		It("fails closed", func() {
			server.down = errors.New("connection refused")
			_, err := cluster.Allows(ctx, builder, auth.VerbGet, owner, "app")
			Expect(domain.CodeOf(err)).To(Equal(domain.CodeUnavailable))
		})
	})
})
