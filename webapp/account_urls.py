"""The part of django-allauth's addresses that the site has: single sign-on and the second factor."""

from allauth.account import views as account
from allauth.socialaccount import views as social
from allauth.socialaccount.providers.openid_connect import views as openid
from django.urls import include, path
from django.views.generic import RedirectView

sign_in = RedirectView.as_view(pattern_name="annotation:sign_in", query_string=True)

urlpatterns = [
    path("sign-in/", sign_in, name="account_login"),
    path("inactive/", account.account_inactive, name="account_inactive"),
    path("confirm/", account.reauthenticate, name="account_reauthenticate"),
    path("two-factor/", include("allauth.mfa.urls")),
    path("connections/", social.connections, name="socialaccount_connections"),
    path("connections/cancelled/", social.login_cancelled, name="socialaccount_login_cancelled"),
    path("connections/error/", social.login_error, name="socialaccount_login_error"),
    path("connections/new/", social.signup, name="socialaccount_signup"),
    path("oidc/<str:provider_id>/", openid.login, name="openid_connect_login"),
    path("oidc/<str:provider_id>/callback/", openid.callback, name="openid_connect_callback"),
]
