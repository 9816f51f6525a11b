"""
Events: what each event of the specs says, as columns of its view.

A column is never taken out, renamed, retyped or moved: what is new goes to the end of its line, and
`REVISION` in views.py grows. Money is a plain number in currency units; ids and positions that
some write as text and others as numbers are text where the spec says text.

Source   as in refine/names.py, where each event stands with all of its names
"""

from collections.abc import Mapping
from typing import Final

_PRODUCT = (
    "product_id|id sku category name brand variant price:number quantity:number coupon "
    "position:number url image_url"
)
# What a product of a list says, too.
PRODUCT: Final = f"{_PRODUCT} currency value:number discount:number original_price:number"
_MONEY = "revenue:number shipping:number tax:number discount:number coupon currency products:list"
_ORDER = f"order_id affiliation total:number {_MONEY}"
_PROMOTION = "promotion_id|id creative name position"
_COUPON = "order_id cart_id coupon_id|coupon coupon_name|name"
_STEP = "checkout_id step:number shipping_method payment_method order_id"
_WISHLIST = "wishlist_id wishlist_name"
_SHARE = "share_via share_message recipient"

_ECOMMERCE = {
    "Products Searched": "query products:list",
    "Product List Viewed": "list_id|category_id category products:list",
    "Product List Filtered": "list_id category filters:json sorts:json products:list",
    "Promotion Viewed": _PROMOTION,
    "Promotion Clicked": _PROMOTION,
    "Product Clicked": f"{_PRODUCT} currency value:number",
    "Product Viewed": f"{_PRODUCT} currency value:number",
    "Product Added": f"cart_id {_PRODUCT} currency value:number",
    "Product Removed": f"cart_id {_PRODUCT} currency value:number",
    "Cart Viewed": "cart_id products:list currency value:number",
    "Checkout Started": f"order_id affiliation value:number {_MONEY} checkout_id cart_id "
    "total:number",
    "Checkout Step Viewed": _STEP,
    "Checkout Step Completed": _STEP,
    "Payment Info Entered": _STEP,
    "Order Completed": f"checkout_id order_id affiliation subtotal:number total:number {_MONEY} "
    "email",
    "Order Updated": _ORDER,
    "Order Refunded": "order_id total:number currency products:list affiliation revenue:number "
    "shipping:number tax:number discount:number coupon",
    "Order Cancelled": _ORDER,
    "Coupon Entered": _COUPON,
    "Coupon Applied": f"{_COUPON} discount:number",
    "Coupon Denied": f"{_COUPON} reason",
    "Coupon Removed": f"{_COUPON} discount:number",
    "Product Added to Wishlist": f"{_WISHLIST} {_PRODUCT}",
    "Product Removed from Wishlist": f"{_WISHLIST} {_PRODUCT}",
    "Wishlist Product Added to Cart": f"{_WISHLIST} cart_id {_PRODUCT}",
    "Product Shared": f"{_SHARE} product_id|id sku category name brand variant price:number url "
    "image_url",
    "Cart Shared": f"{_SHARE} cart_id products:list",
    "Product Reviewed": "product_id|id review_id review_body rating",
}

_MAIL = "email_id email_subject campaign_id campaign_name"
_EMAIL = {
    "Email Delivered": _MAIL,
    "Email Bounced": _MAIL,
    "Email Opened": _MAIL,
    "Email Link Clicked": f"{_MAIL} link_id link_url",
    "Email Marked as Spam": _MAIL,
    "Unsubscribed": f"{_MAIL} list_id list_name",
}

_PUSH = "campaign.name campaign.medium campaign.content campaign.source"
_MOBILE = {
    "Application Installed": "version build",
    "Application Opened": "from_background:boolean url referring_application version build",
    "Application Updated": "previous_version previous_build version build",
    "Application Backgrounded": "",
    "Application Foregrounded": "",
    "Application Uninstalled": "",
    "Application Crashed": "",
    "Install Attributed": "provider campaign.source campaign.name campaign.medium "
    "campaign.content campaign.ad_creative campaign.ad_group",
    "Push Notification Received": _PUSH,
    "Push Notification Tapped": f"action {_PUSH}",
    "Push Notification Bounced": f"action {_PUSH}",
    "Deep Link Opened": "provider url",
    "Deep Link Clicked": "provider url",
}

_TRIAL = "trial_start_date:time trial_end_date:time trial_plan_name"
_AGENT = "agent_id agent_name agent_username conversation_id"
_CAMPAIGN = {
    "Experiment Viewed": "experiment_id experiment_name variation_id variation_name",
    "Account Created": "account_name",
    "Account Deleted": "account_name",
    "Signed Up": "type first_name last_name email phone username title",
    "Signed In": "username",
    "Signed Out": "username",
    "Invite Sent": "invitee_email invitee_first_name invitee_last_name invitee_role",
    "Account Added User": "role",
    "Account Removed User": "",
    "Trial Started": _TRIAL,
    "Trial Ended": _TRIAL,
    "Live Chat Conversation Started": _AGENT,
    "Live Chat Conversation Ended": f"{_AGENT} conversation_duration:number",
    "Live Chat Message Sent": f"{_AGENT} message_id",
    "Live Chat Message Received": f"{_AGENT} message_id",
}

_WATCHED = "session_id position:number total_length:number"
_PLAYBACK = (
    f"{_WATCHED} content_asset_id content_asset_ids:json content_pod_id content_pod_ids:json "
    "ad_asset_id ad_asset_ids:json ad_pod_id ad_pod_ids:json ad_type quality sound:number "
    "full_screen:boolean ad_enabled:boolean livestream:boolean bitrate:number framerate:number "
    "video_player"
)
_CONTENT = (
    f"{_WATCHED} asset_id pod_id title description keywords:json season episode genre program "
    "publisher channel full_episode:boolean livestream:boolean airdate:time"
)
_AD = (
    f"{_WATCHED} asset_id pod_id pod_position:number pod_length:number type|ad_type title "
    "publisher load_type quartile:number"
)
_VIDEO = {
    **{
        f"Video Playback {what}": _PLAYBACK
        for what in (
            *("Started", "Paused", "Interrupted", "Buffer Started", "Buffer Completed"),
            *("Seek Started", "Seek Completed", "Resumed", "Completed", "Exited"),
        )
    },
    **{f"Video Content {what}": _CONTENT for what in ("Started", "Playing", "Completed")},
    **{f"Video Ad {what}": _AD for what in ("Started", "Playing", "Completed")},
}

# By spec, by event: what columns.py reads.
EVENTS: Final[Mapping[str, Mapping[str, str]]] = {
    "E-commerce": _ECOMMERCE,
    "Email": _EMAIL,
    "Mobile": _MOBILE,
    "Campaigns, experiments, accounts and chat": _CAMPAIGN,
    "Video": _VIDEO,
}
