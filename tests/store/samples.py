"""What senders say in each event of the specs, as the specs' own pages have it."""

from typing import Any

PRODUCT: dict[str, Any] = {
    "product_id": "507f1f77bcf86cd799439011",
    "sku": "G-32",
    "category": "Games",
    "name": "Monopoly: 3rd Edition",
    "brand": "Hasbro",
    "variant": "200 pieces",
    "price": 18.99,
    "quantity": 1,
    "coupon": "MAYDEALS",
    "position": 3,
    "url": "https://www.example.com/product/path",
    "image_url": "https://www.example.com/product/path.jpg",
}
PRODUCTS = [PRODUCT, {"product_id": "505bd76785ebb509fc183733", "price": 3, "quantity": 2}]
VALUED = {**PRODUCT, "currency": "USD", "value": 18.99}
ORDER: dict[str, Any] = {
    "order_id": "50314b8e9bcf000000000000",
    "affiliation": "Google Store",
    "total": 27.5,
    "revenue": 25.0,
    "shipping": 3,
    "tax": 2,
    "discount": 2.5,
    "coupon": "hasbros",
    "currency": "USD",
    "products": PRODUCTS,
}
STARTED = {name: value for name, value in ORDER.items() if name != "total"} | {"value": 30}
PROMOTION = {"promotion_id": "promo_1", "creative": "top_banner_2", "name": "75% off", "position": "home_banner_top"}  # fmt: skip  # noqa: E501
STEP = {"checkout_id": "c1", "step": 2, "shipping_method": "Fedex", "payment_method": "Visa"}
COUPON = {"order_id": "o1", "cart_id": "k1", "coupon_id": "may_deals_2016", "coupon_name": "May Deals 2016"}  # fmt: skip  # noqa: E501
WISHLIST = {"wishlist_id": "skdjsidjsdkdj29j", "wishlist_name": "Loved Games", **PRODUCT}
SHARE = {"share_via": "email", "share_message": "Hey, check out this item", "recipient": "friend@example.com"}  # fmt: skip  # noqa: E501
UNCOUNTED = {k: v for k, v in PRODUCT.items() if k not in {"quantity", "coupon", "position"}}
MAIL = {"email_id": "18vzF7u3z", "email_subject": "First one in the box", "campaign_id": "123", "campaign_name": "New Users"}  # fmt: skip  # noqa: E501
PUSH = {"campaign": {"name": "Retention", "medium": "Push", "content": "50% off", "source": "Vendor"}}  # fmt: skip  # noqa: E501
ATTRIBUTED = {"source": "Network", "name": "Camp", "medium": "cpc", "content": "Organic", "ad_creative": "Red Hello World Ad", "ad_group": "Red Ones"}  # fmt: skip  # noqa: E501
TRIAL = {"trial_start_date": "2018-08-28T04:09:47Z", "trial_end_date": "2018-09-10", "trial_plan_name": "Gold"}  # fmt: skip  # noqa: E501
AGENT = {"agent_id": "a1", "agent_name": "Ann", "agent_username": "ann", "conversation_id": "v1"}
WATCHED = {"session_id": "12345", "position": 0, "total_length": 392}
PLAYBACK = {
    **WATCHED, "content_asset_ids": ["0129370"], "content_pod_ids": ["segA"], "ad_type": "mid-roll",
    "quality": "hd1080", "sound": 88, "full_screen": True, "livestream": False, "bitrate": 16,
    "framerate": 29.97, "video_player": "youtube", "ad_enabled": True,
}  # fmt: skip
CONTENT = {
    **WATCHED, "asset_id": "0129370", "pod_id": "segA", "title": "Interview with Tony Robbins",
    "description": "short", "keywords": ["entrepreneurship", "motivation"], "season": "2",
    "episode": "2177", "genre": "Reality TV", "program": "Planet Money", "publisher": "NPR",
    "channel": "espn", "full_episode": True, "livestream": False, "airdate": "1991-08-13",
}  # fmt: skip
AD = {
    **WATCHED, "asset_id": "ad123", "pod_id": "adSegA", "pod_position": 1, "pod_length": 3,
    "type": "mid-roll", "title": "The New Ad!", "publisher": "Apple", "load_type": "linear",
    "quartile": 2,
}  # fmt: skip

SAMPLES: dict[str, dict[str, Any]] = {
    "Products Searched": {"query": "blue hotpants"},
    "Product List Viewed": {"list_id": "hot_deals_1", "category": "Deals", "products": PRODUCTS},
    "Product List Filtered": {
        "list_id": "todays_deals_may_11_2019",
        "filters": [{"type": "department", "value": "beauty"}],
        "sorts": [{"type": "price", "value": "desc"}],
        "products": PRODUCTS,
    },
    "Promotion Viewed": PROMOTION,
    "Promotion Clicked": PROMOTION,
    "Product Clicked": PRODUCT,
    "Product Viewed": VALUED,
    "Product Added": {"cart_id": "skdjsidjsdkdj29j", **PRODUCT},
    "Product Removed": {"cart_id": "ksjdj92dj29dj92d2j", **PRODUCT},
    "Cart Viewed": {"cart_id": "d92jd29jd92jd29j92d92jd", "products": PRODUCTS},
    "Checkout Started": STARTED,
    "Checkout Step Viewed": STEP,
    "Checkout Step Completed": STEP,
    "Payment Info Entered": {**STEP, "order_id": "dkfsjidfjsdifsdfksdjfkdsfjsdfkdsf"},
    "Order Completed": {"checkout_id": "fksdjfsdjfisjf9sdfjsd9f", "subtotal": 22.5, **ORDER},
    "Order Updated": ORDER,
    "Order Refunded": {"order_id": "o1", "total": 30, "currency": "USD", "products": PRODUCTS},
    "Order Cancelled": ORDER,
    "Coupon Entered": {"order_id": "o1", "cart_id": "k1", "coupon_id": "may_deals_2016"},
    "Coupon Applied": {**COUPON, "discount": 23.32},
    "Coupon Denied": {**COUPON, "reason": "Coupon expired"},
    "Coupon Removed": {**COUPON, "discount": 23.32},
    "Product Added to Wishlist": WISHLIST,
    "Product Removed from Wishlist": WISHLIST,
    "Wishlist Product Added to Cart": {**WISHLIST, "cart_id": "99j2d92j9dj29dj29d2d"},
    "Product Shared": {**SHARE, **UNCOUNTED},
    "Cart Shared": {**SHARE, "cart_id": "d92jd2", "products": [{"product_id": "507f1f77b"}]},
    "Product Reviewed": {
        "product_id": "507f1f77bcf86cd799439011",
        "review_id": "kdfjrj39fj39jf3",
        "review_body": "I love this product",
        "rating": "5",
    },
    "Email Delivered": MAIL,
    "Email Bounced": MAIL,
    "Email Opened": MAIL,
    "Email Link Clicked": {**MAIL, "link_id": "5", "link_url": "https://analytics.example/"},
    "Email Marked as Spam": MAIL,
    "Unsubscribed": {**MAIL, "list_id": "list123", "list_name": "New Daily Updates"},
    "Application Installed": {"version": "1.2.3", "build": "1234"},
    "Application Opened": {
        "from_background": False,
        "referring_application": "GMail",
        "url": "url://location",
        "version": "1.2.3",
        "build": "1234",
    },
    "Application Updated": {
        "previous_version": "1.1.2",
        "previous_build": "1234",
        "version": "1.2.0",
        "build": "1456",
    },
    "Application Backgrounded": {},
    "Application Foregrounded": {},
    "Application Uninstalled": {},
    "Application Crashed": {},
    "Install Attributed": {"provider": "Tune/Kochava/Branch", "campaign": ATTRIBUTED},
    "Push Notification Received": PUSH,
    "Push Notification Tapped": {"action": "Accept", **PUSH},
    "Push Notification Bounced": {"action": "Accept", **PUSH},
    "Deep Link Opened": {"provider": "Branch Metrics", "url": "brandless://products/1"},
    "Deep Link Clicked": {"provider": "Branch Metrics", "url": "brandless://products/1"},
    "Experiment Viewed": {
        "experiment_id": "1234",
        "experiment_name": "home_page_cta",
        "variation_id": "1",
        "variation_name": "red_button",
    },
    "Account Created": {"account_name": "Initech"},
    "Account Deleted": {"account_name": "Initech"},
    "Signed Up": {
        "type": "organic",
        "first_name": "Peter",
        "last_name": "Gibbons",
        "email": "pgibbons@example.com",
        "phone": "410-555-9412",
        "username": "pgibbons",
        "title": "Mr",
    },
    "Signed In": {"username": "pgibbons"},
    "Signed Out": {"username": "pgibbons"},
    "Invite Sent": {
        "invitee_email": "pgibbons@example.com",
        "invitee_first_name": "Peter",
        "invitee_last_name": "Gibbons",
        "invitee_role": "Owner",
    },
    "Account Added User": {"role": "Owner"},
    "Account Removed User": {},
    "Trial Started": TRIAL,
    "Trial Ended": TRIAL,
    "Live Chat Conversation Started": AGENT,
    "Live Chat Conversation Ended": {**AGENT, "conversation_duration": 60},
    "Live Chat Message Sent": {**AGENT, "message_id": "m1"},
    "Live Chat Message Received": {**AGENT, "message_id": "m1"},
    **{
        f"Video Playback {what}": PLAYBACK
        for what in (
            *("Started", "Paused", "Interrupted", "Buffer Started", "Buffer Completed"),
            *("Seek Started", "Seek Completed", "Resumed", "Completed", "Exited"),
        )
    },
    **{f"Video Content {what}": CONTENT for what in ("Started", "Playing", "Completed")},
    **{f"Video Ad {what}": AD for what in ("Started", "Playing", "Completed")},
}
