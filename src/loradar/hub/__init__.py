"""The Hugging Face hub: push what loradar wrote, and pull it elsewhere. Whatever takes a folder takes `hub:OWNER/NAME` too."""

from loradar.hub.sending import Pushed, model_card, pull, push

__all__ = ["Pushed", "model_card", "pull", "push"]
