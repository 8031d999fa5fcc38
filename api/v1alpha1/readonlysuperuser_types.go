package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// SubjectKind is where a readonly superuser's identity comes from. The same name of two kinds is two identities.
//
// +kubebuilder:validation:Enum=RegistryUser;ServiceAccount;User;Group
type SubjectKind string

const (
	// SubjectRegistryUser is a user of the registry.
	SubjectRegistryUser SubjectKind = "RegistryUser"
	// SubjectServiceAccount is a ServiceAccount of the cluster.
	SubjectServiceAccount SubjectKind = "ServiceAccount"
	// SubjectUser is a user of Kubernetes, or of an OIDC issuer that the registry knows.
	SubjectUser SubjectKind = "User"
	// SubjectGroup is a group of those.
	SubjectGroup SubjectKind = "Group"
)

// ReadonlyAccess is how much a readonly superuser reads.
//
// +kubebuilder:validation:Enum=Full;MetadataOnly
type ReadonlyAccess string

const (
	// ReadonlyFull reads everything.
	ReadonlyFull ReadonlyAccess = "Full"
	// ReadonlyMetadataOnly reads everything but blobs: no image can be carried away.
	ReadonlyMetadataOnly ReadonlyAccess = "MetadataOnly"
)

// ReadonlySubject is who reads everything.
//
// +kubebuilder:validation:XValidation:rule=`self.kind == "ServiceAccount" ? has(self.__namespace__) && self.__namespace__ != "" : !has(self.__namespace__) || self.__namespace__ == ""`,fieldPath=".namespace",message="is required for a ServiceAccount, and for that only"
// +kubebuilder:validation:XValidation:rule=`self.kind != "RegistryUser" || !self.name.contains("+")`,fieldPath=".name",message="is a robot's: robots write, and cannot be readonly superusers; name a user"
// +kubebuilder:validation:XValidation:rule=`self.kind != "RegistryUser" || !(self.name in ["admin", "operator", "system", "anonymous"])`,fieldPath=".name",message="is reserved: the account admin, the operator and the registry itself cannot be readonly superusers; name another user"
// +kubebuilder:validation:XValidation:rule=`self.kind != "RegistryUser" || self.name.contains("+") || self.name.matches("^[a-z0-9]+(([.]|_|__|-+)[a-z0-9]+)*$")`,fieldPath=".name",message="must be a user's name: lower-case letters and digits, separated by '.', '_', '__' or '-'"
// +kubebuilder:validation:XValidation:rule=`self.kind != "ServiceAccount" || self.name.matches("^[a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*$")`,fieldPath=".name",message="must be a ServiceAccount's name, without the namespace"
// +kubebuilder:validation:XValidation:rule=`!(self.kind in ["User", "Group"]) || !self.name.startsWith("system:")`,fieldPath=".name",message="must not be one of Kubernetes' own users and groups, which begin with system:; for a ServiceAccount use kind ServiceAccount"
// +kubebuilder:validation:XValidation:rule=`!(self.kind in ["User", "Group"]) || !self.name.matches("[[:cntrl:]]")`,fieldPath=".name",message="must have printable characters only"
type ReadonlySubject struct {
	// kind is RegistryUser for a user of the registry, ServiceAccount, or User and Group for those of Kubernetes and of OIDC
	// issuers that the registry knows.
	//
	// +required
	Kind SubjectKind `json:"kind"`
	// name is the subject's name. Robots, the account admin, the operator, and users and groups that begin with "system:"
	// cannot be readonly superusers.
	//
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name"`
	// namespace is that of a ServiceAccount.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:XValidation:rule=`self == "" || self.matches("^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")`,message="must be the name of a namespace"
	Namespace string `json:"namespace,omitempty"`
}

// ReadonlyCredentials has the operator make credentials for a user of the registry.
type ReadonlyCredentials struct {
	// secretName names the Secret that the operator writes them to, always in its own namespace: of type
	// kubernetes.io/dockerconfigjson, with the keys username and token beside. A Secret of that name that the operator has
	// not made is not touched.
	//
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:XValidation:rule=`self.matches("^[a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*$")`,message="must be a Secret's name: lower-case letters, digits, '-' and '.'"
	SecretName string `json:"secretName"`
	// rotateEvery is how long credentials live, from 10m to 8784h. New ones are in the Secret before the old ones end. To
	// have new ones now, delete the Secret.
	//
	// +optional
	// +kubebuilder:default="720h"
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:XValidation:rule=`self.matches("^([0-9]+[smh])+$") && duration(self) >= duration("10m") && duration(self) <= duration("8784h")`,message="must be a duration from 10m to 8784h, for instance 720h"
	RotateEvery *metav1.Duration `json:"rotateEvery,omitempty"`
}

// ReadonlySuperuserSpec declares who reads everything in the registry and writes nothing.
//
// +kubebuilder:validation:XValidation:rule=`!has(self.credentials) || self.subject.kind == "RegistryUser"`,fieldPath=".credentials",message="is for a RegistryUser only: every other subject has credentials of its own"
type ReadonlySuperuserSpec struct {
	// subject is who it is. Nobody else has a ReadonlySuperuser for the same subject. It cannot be changed.
	//
	// +required
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="cannot be changed: create another ReadonlySuperuser, and delete this one"
	Subject ReadonlySubject `json:"subject"`
	// access is Full, or MetadataOnly for everything but blobs: who has that sees all that there is, and cannot carry
	// images away.
	//
	// +optional
	// +kubebuilder:default=Full
	Access ReadonlyAccess `json:"access,omitempty"`
	// expiresAt is when the access ends by itself, also while the operator is down. A later time extends it, also once it
	// has ended. Without it there is no end.
	//
	// +optional
	ExpiresAt *metav1.Time `json:"expiresAt,omitempty"`
	// credentials has the operator make credentials for a RegistryUser, rotate them, and write them to a Secret. There need
	// be no such user: the registry makes one without a password, and removes it with the access.
	//
	// +optional
	Credentials *ReadonlyCredentials `json:"credentials,omitempty"`
}

// ReadonlyCredentialsStatus tells of the credentials that are in force.
type ReadonlyCredentialsStatus struct {
	// namespace is that of the Secret that has them: the operator's.
	Namespace string `json:"namespace"`
	// secretName is the Secret's name.
	SecretName string `json:"secretName"`
	// tokenID is how the registry and its audit log name the token.
	TokenID string `json:"tokenID"`
	// issuedTime is when they were made.
	IssuedTime metav1.Time `json:"issuedTime"`
	// expirationTime is when they end: with the next rotation, or with the access.
	ExpirationTime metav1.Time `json:"expirationTime"`
}

// ReadonlySuperuserStatus is what the registry makes of a readonly superuser.
type ReadonlySuperuserStatus struct {
	// observedGeneration is the generation of the spec that this status is about.
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
	// conditions are Ready, which is True while the subject reads everything and writes nothing, and while they are true
	// Reconciling and Stalled.
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
	// grantUUID is the grant's identity in the registry, as its audit log names it.
	// +optional
	GrantUUID string `json:"grantUUID,omitempty"`
	// subject is the identity that the registry has granted the access to, as its audit log names performers: its source
	// and its name.
	// +optional
	Subject string `json:"subject,omitempty"`
	// lastSeenTime is when the subject last used the access, to a minute.
	// +optional
	LastSeenTime *metav1.Time `json:"lastSeenTime,omitempty"`
	// expiredTime is when the access has ended by itself.
	// +optional
	ExpiredTime *metav1.Time `json:"expiredTime,omitempty"`
	// credentials tells of the credentials that are in force.
	// +optional
	Credentials *ReadonlyCredentialsStatus `json:"credentials,omitempty"`
}

// ReadonlySuperuser lets somebody read everything in the registry, every organization, image, log, policy, mirror and
// setting, and write nothing: an auditor for instance. It takes every other right away from its subject. No secret is shown
// to it. Its object is for cluster administrators.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:path=readonlysuperusers,scope=Cluster,shortName=rosu,categories=tidelock
// +kubebuilder:printcolumn:name="Kind",type=string,JSONPath=`.spec.subject.kind`,description="Where the subject's identity comes from"
// +kubebuilder:printcolumn:name="Subject",type=string,JSONPath=`.spec.subject.name`,description="Who reads everything"
// +kubebuilder:printcolumn:name="Namespace",type=string,priority=1,JSONPath=`.spec.subject.namespace`,description="The namespace of a ServiceAccount"
// +kubebuilder:printcolumn:name="Access",type=string,JSONPath=`.spec.access`,description="How much the subject reads"
// +kubebuilder:printcolumn:name="Expires",type=string,JSONPath=`.spec.expiresAt`,description="When the access ends by itself"
// +kubebuilder:printcolumn:name="Last seen",type=date,JSONPath=`.status.lastSeenTime`,description="When the subject last used the access"
// +kubebuilder:printcolumn:name="Credentials end",type=string,priority=1,JSONPath=`.status.credentials.expirationTime`,description="When the credentials that the operator has made end"
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`,description="Whether the subject reads everything and writes nothing"
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`,description="Why it is ready or not"
// +kubebuilder:printcolumn:name="Status",type=string,priority=1,JSONPath=`.status.conditions[?(@.type=="Ready")].message`,description="What there is to know or to do"
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type ReadonlySuperuser struct {
	metav1.TypeMeta `json:",inline"`
	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// spec declares who reads everything, for how long, and with which credentials.
	// +required
	Spec ReadonlySuperuserSpec `json:"spec"`
	// status is what the registry makes of it. The operator writes it.
	//
	// +optional
	// +kubebuilder:default:={"observedGeneration":-1}
	Status ReadonlySuperuserStatus `json:"status,omitempty"`
}

// ReadonlySuperuserList is a list of readonly superusers.
//
// +kubebuilder:object:root=true
type ReadonlySuperuserList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []ReadonlySuperuser `json:"items"`
}
