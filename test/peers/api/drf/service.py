"""The same small POST in Django REST framework: a caller known by his token, a rate per caller, a body checked by a serializer."""

from django.conf import settings

settings.configure(
    DEBUG=False,
    SECRET_KEY="for a measurement on one machine",
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=__name__,
    INSTALLED_APPS=["rest_framework"],
    CACHES={"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}},
    REST_FRAMEWORK={
        "DEFAULT_THROTTLE_RATES": {"user": "1000000/s"},
        "UNAUTHENTICATED_USER": None,
        "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
        "DEFAULT_PARSER_CLASSES": ["rest_framework.parsers.JSONParser"],
    },
)

import django  # noqa: E402

django.setup()

from django.core.wsgi import get_wsgi_application  # noqa: E402
from django.urls import path  # noqa: E402
from rest_framework import authentication, exceptions, permissions, serializers  # noqa: E402
from rest_framework.response import Response  # noqa: E402
from rest_framework.throttling import UserRateThrottle  # noqa: E402
from rest_framework.views import APIView  # noqa: E402


class Caller:
    is_authenticated = True

    def __init__(self, pk):
        self.pk = self.id = pk


CALLERS = {"Bearer x": Caller(7)}


class ByToken(authentication.BaseAuthentication):
    def authenticate(self, request):
        caller = CALLERS.get(request.META.get("HTTP_AUTHORIZATION", ""))
        if caller is None:
            raise exceptions.AuthenticationFailed()
        return caller, None


class Post(serializers.Serializer):
    title = serializers.CharField(min_length=1, max_length=100)
    channel_id = serializers.CharField(min_length=3)
    type = serializers.ChoiceField(["article", "photo", "video"])
    tags = serializers.ListField(child=serializers.CharField(), max_length=5)
    content = serializers.CharField(max_length=1000)


class Throttle(UserRateThrottle):
    """DRF keeps one entry for each request of the period: with a rate that refuses nobody its list would grow for ever, so it is a second's."""

    def get_rate(self):
        return "100000/s"


class Posts(APIView):
    authentication_classes = [ByToken]
    permission_classes = [permissions.IsAuthenticated]
    throttle_classes = []

    def post(self, request):
        post = Post(data=request.data)
        post.is_valid(raise_exception=True)
        return Response({"id": "art_1", "title": post.validated_data["title"], "tags": len(post.validated_data["tags"])}, status=201)


class Throttled(Posts):
    throttle_classes = [Throttle]


urlpatterns = [path("v1/posts", Posts.as_view()), path("v1/throttled", Throttled.as_view())]
application = get_wsgi_application()
